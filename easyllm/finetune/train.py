"""The program that every rank runs: ``torchrun ... --module easyllm.finetune.train JOB_FILE``."""

import json
import os
import sys
import warnings
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from easyllm.core.artifact import write_whole
from easyllm.core.errors import Problem, StageFailed, UserError
from easyllm.core.launch import die_with_parent
from easyllm.finetune.work import OUTCOME, WEIGHTS, Work

PATIENCE = timedelta(minutes=30)
"""A collective that waits so long for a rank fails."""


def main(job_file: Path) -> None:
    """Train to the end; the first rank leaves the outcome and the trained weights beside the job file."""
    die_with_parent()
    import torch
    import torch.distributed as dist

    from easyllm.core.models import quiet_libraries
    from easyllm.finetune.assembly import rank_device

    quiet_libraries()
    warnings.filterwarnings("ignore", module=r"torch\.distributed\..*", category=FutureWarning)
    work = Work.read(job_file)
    if work.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    rank_device(work.device)
    dist.init_process_group("nccl" if work.device == "cuda" else "gloo", timeout=PATIENCE)
    try:
        outcome, weights = _train(work)
        if dist.get_rank() == 0:
            if weights is not None:
                torch.save(weights, job_file.with_name(WEIGHTS))
            write_whole(job_file.with_name(OUTCOME), json.dumps(outcome) + "\n")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _train(work: Work) -> tuple[dict[str, Any], Any]:
    """(what the first rank reports, its weights). A refusal or a diagnosis is the same on every rank: it is reported."""
    from easyllm.finetune.assembly import assemble

    try:
        ready = assemble(work)
        seconds = ready.training.run()
        weights = ready.training.weights()
    except UserError as error:
        return {"refused": [_record(problem) for problem in error.problems]}, None
    except StageFailed as error:
        if error.problem is None:
            raise
        return {"failed": [_record(error.problem)]}, None
    except KeyboardInterrupt:
        return {"stopped": True}, None
    training = ready.training
    return {
        "rows": [asdict(row) for row in training.rows], "seconds": seconds, "watch": training.watch.as_record(),
        "stopped_early": training.stopped_early, "decisions": [asdict(decision) for decision in ready.decisions],
    }, weights  # fmt: skip


def _record(problem: Problem) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(json.dumps(asdict(problem), default=str))
    return record


if __name__ == "__main__":
    main(Path(sys.argv[1]))
