"""A rank program for the tests: one start of torchrun, many trainings one after the other.

``torchrun ... --module finetune_ranks FOLDER``: FOLDER/scenarios.json names job files; rank 0 leaves results.json.
"""

import json
import sys
import traceback
from pathlib import Path
from typing import Any


def run(folder: Path) -> None:
    import torch
    import torch.distributed as dist

    from easyllm.finetune.work import Work

    dist.init_process_group("gloo")
    scenarios: dict[str, Any] = json.loads((folder / "scenarios.json").read_text("utf-8"))
    results = {}
    for name, job_file in scenarios.items():
        work = Work.read(Path(job_file))
        torch.manual_seed(0)
        results[name] = _train(work, folder / f"{name}.pt")
    if dist.get_rank() == 0:
        (folder / "results.json").write_text(json.dumps(results), "utf-8")
    dist.barrier()
    dist.destroy_process_group()


def _train(work: Any, weights_file: Path) -> dict[str, Any]:
    """Once whole, with a state in its middle; then again from that state, which the second run finds."""
    import torch
    import torch.distributed as dist

    from easyllm.finetune.assembly import assemble

    found = {}
    for part in ("whole", "resumed"):
        try:
            ready = assemble(work)
            ready.training.run()
            weights = ready.training.weights()
        except Exception:
            traceback.print_exc()
            raise
        rows = ready.training.rows
        found[part] = [[row.loss, row.gradient_norm, row.held_out_loss] for row in rows]
        if dist.get_rank() == 0:
            torch.save(weights, weights_file.with_name(f"{part}-{weights_file.name}"))
        if work.config.engine == "deepspeed":
            ready.training._engine.model.destroy()
        dist.barrier()
        del ready
    return found


if __name__ == "__main__":
    run(Path(sys.argv[1]))
