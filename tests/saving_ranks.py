"""A rank program for the tests: Megatron-Core's own models, saved as Megatron-LM saves them, whatever the layout.

``torchrun ... --module saving_ranks JOB``: the job file names models by layout and format; each is left below the
job file's folder, and its whole weights beside it as ``NAME.safetensors``, for a comparison bit by bit.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from easyllm.core.megatron.architecture import Architecture
from easyllm.core.megatron.layout import Layout
from easyllm.core.megatron.session import laid_out, megatron_session, rank_device

SEED = 7
STEP = 12


class Backend(Enum):
    """Something that only the writer's code knows; real arguments are full of such."""

    AUTO = 5


@dataclass(frozen=True)
class Saved:
    """One checkpoint to be made."""

    architecture: dict[str, Any]
    arguments: dict[str, Any]
    """Attributes of the args namespace, as Megatron-LM calls them."""
    layout: dict[str, Any] = field(default_factory=dict)
    how: str = "torch_dist"
    """torch_dist (by Megatron's own save), threads (torch_dist by torch's writer), or ranks (a file a rank)."""
    metadata: dict[str, Any] | None = None
    """Wishes for the shards, as Megatron-LM passes them."""


def main(job_file: Path) -> None:
    jobs = {name: Saved(**saved) for name, saved in json.loads(job_file.read_text("utf-8")).items()}
    device = rank_device("cpu")
    with megatron_session(device, Layout(), SEED):
        from megatron.core import parallel_state

        for name, saved in jobs.items():
            parallel_state.destroy_model_parallel()
            with laid_out(Layout(**saved.layout), SEED):
                chunks = _model(saved, Layout(**saved.layout), device)
                _save(saved, chunks, job_file.parent / name)
        parallel_state.destroy_model_parallel()
        with laid_out(Layout(), SEED):
            for name, saved in jobs.items():
                _save_whole(_model(saved, Layout(), device)[0], job_file.parent / f"{name}.safetensors")
        parallel_state.initialize_model_parallel()  # for the session to take down


def _model(saved: Saved, layout: Layout, device: Any) -> Any:
    """Its chunks, the same numbers in every layout: norms and biases are shaken too."""
    import torch

    from easyllm.core.megatron import weights
    from easyllm.core.megatron.model import build_model

    a = Architecture.from_record(saved.architecture)
    chunks = build_model(a, device, layout, SEED)
    for chunk in chunks:
        for name, weight in chunk.named_parameters():
            if weight.dim() == 1:
                whole = weights._whole(weight, weights.whole_name(chunk, name, a.tie_embeddings), 0.2, SEED)
                with torch.no_grad():
                    weight.add_(weights._part(whole, weight))
    return chunks


def _save(saved: Saved, chunks: list[Any], out: Path) -> None:
    import torch
    import torch.distributed as dist
    from megatron.core import dist_checkpointing, parallel_state

    arguments = argparse.Namespace(**saved.arguments, params_dtype=torch.float32, attention_backend=Backend.AUTO)
    plain = {"args": arguments, "checkpoint_version": 3.0, "iteration": STEP}
    keys = ["model"] if len(chunks) == 1 else [f"model{i}" for i in range(len(chunks))]
    folder = out / f"iter_{STEP:07d}"
    if saved.how == "ranks":
        tensor, pipeline = saved.layout.get("tensor", 1), saved.layout.get("pipeline", 1)
        place = f"mp_rank_{parallel_state.get_tensor_model_parallel_rank():02d}"
        place += f"_{parallel_state.get_pipeline_model_parallel_rank():03d}" if pipeline > 1 else ""
        assert tensor * pipeline == dist.get_world_size()
        (folder / place).mkdir(parents=True)
        models = {key: chunk.state_dict_for_save_checkpoint() for key, chunk in zip(keys, chunks, strict=True)}
        torch.save({**plain, **models, "optimizer": {"moment": torch.ones(3)}}, folder / place / "model_optim_rng.pt")
    else:
        if dist.get_rank() == 0:
            folder.mkdir(parents=True)
        dist.barrier()
        sharded = {
            key: chunk.sharded_state_dict(metadata=saved.metadata) for key, chunk in zip(keys, chunks, strict=True)
        }
        torch.cuda.synchronize = lambda device=None: None  # type: ignore[assignment]  # Megatron's own save calls it
        dist_checkpointing.save({**plain, **sharded}, str(folder), _strategy() if saved.how == "threads" else None)
    if dist.get_rank() == 0:
        (out / "latest_checkpointed_iteration.txt").write_text(str(STEP), "utf-8")
    dist.barrier()


def _strategy() -> Any:
    """torch's own writer: Megatron's starts processes, for seconds."""
    import torch.distributed as dist

    from easyllm.core.megatron.checkpoint import ThreadSave

    class AtOnce(ThreadSave):
        def save(self, *arguments: Any) -> None:
            super().save(*arguments)
            for begun in self.begun:
                begun.result()

    from concurrent.futures import ThreadPoolExecutor

    return AtOnce(ThreadPoolExecutor(1), dist.new_group(backend="gloo"))


def _save_whole(model: Any, path: Path) -> None:
    import torch.distributed as dist
    from safetensors.torch import save_file

    if dist.get_rank() == 0:
        state = model.state_dict()
        save_file({name: t.detach().clone() for name, t in state.items() if not name.endswith("_extra_state")}, path)
    dist.barrier()


def write_job(path: Path, jobs: dict[str, Saved]) -> None:
    path.write_text(json.dumps({name: asdict(saved) for name, saved in jobs.items()}), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
