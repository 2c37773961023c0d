"""The program that reads a checkpoint with Megatron: ``torchrun ... --module easyllm.convert.read_megatron JOB_FILE``.

A process of its own, because the CPU shim changes torch for the whole process, and the other side of the parity
report must be stock code. Whatever number of ranks wrote the checkpoint, one reads it.
"""

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easyllm.core.artifact import write_whole
from easyllm.core.launch import die_with_parent
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.megatron.layout import Layout
from easyllm.core.megatron.session import megatron_session, rank_device

if TYPE_CHECKING:
    import torch

WEIGHTS = "weights.safetensors"
LOGITS = "logits.safetensors"


@dataclass(frozen=True)
class ReadJob:
    """What to read and where to leave it."""

    checkpoint: str
    architecture: dict[str, Any]
    prompts: list[list[int]]
    """Token ids whose logits are wanted."""
    out: str
    """Gets weights.safetensors (Megatron's names, tensor parallel 1) and logits.safetensors ([tokens, padded])."""

    def write(self, path: Path) -> None:
        write_whole(path, json.dumps(asdict(self)))


def main(job_file: Path) -> None:
    die_with_parent()
    job = ReadJob(**json.loads(job_file.read_text("utf-8")))
    device = rank_device("cpu")
    with megatron_session(device, Layout(), seed=1):
        _read(job, device)


def _read(job: ReadJob, device: "torch.device") -> None:
    from safetensors.torch import save_file

    from easyllm.core.megatron.checkpoint import load_whole
    from easyllm.core.megatron.model import build_model

    # In fp32 whatever it was trained in, so that the parity report compares the mapping and not the rounding.
    architecture = replace(Architecture.from_record(job.architecture), dtype="float32")
    [model] = build_model(architecture, device)
    loaded = load_whole(Path(job.checkpoint), architecture, {"model": model.sharded_state_dict()})
    model.load_state_dict(loaded["model"])
    model.eval()
    out = Path(job.out)
    save_file(weights(model), out / WEIGHTS)
    save_file({str(i): logits(model, ids) for i, ids in enumerate(job.prompts)}, out / LOGITS)


def weights(model: Any) -> "dict[str, torch.Tensor]":
    """The model's tensors; Megatron's ``_extra_state`` entries carry nothing in fp32."""
    state = model.state_dict()
    return {name: t.detach().clone() for name, t in state.items() if not name.endswith("_extra_state")}


def logits(model: Any, ids: list[int]) -> "torch.Tensor":
    """[tokens, padded vocabulary] of one prompt."""
    import torch

    tokens = torch.tensor([ids])
    with torch.inference_mode():
        out: torch.Tensor = model(tokens, torch.arange(len(ids))[None], None)  # [1, tokens, padded vocabulary]
    return out[0].float().clone()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
