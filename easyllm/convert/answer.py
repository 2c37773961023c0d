"""The Megatron side of the proof: ``torchrun ... --module easyllm.convert.answer JOB_FILE``.

A process of its own, because the CPU shim changes torch for the whole process, and the other side of the parity
report must be stock code. Whatever number of ranks wrote the checkpoint, one reads it, tensor by tensor.
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

    from easyllm.core.families.weights import Weights

NAME = "Megatron-Core"
EMBEDDING, OUTPUT = "embedding.word_embeddings.weight", "output_layer.weight"


@dataclass(frozen=True)
class Question:
    """What is asked of a checkpoint's model."""

    checkpoint: str
    architecture: dict[str, Any]
    prompts: list[list[int]]
    """Token ids."""
    dtypes: list[str]
    """What to compute in, one forward pass each."""
    out: str
    """Gets a file of logits for each dtype, or the trace."""
    trace: tuple[int, int] | None = None
    """Positions [from, to) of the only prompt whose way through the model is wanted, in place of logits."""

    rounded: str | None = None
    """The dtype that the weights are rounded to first: what was converted into another one says what these say."""

    def write(self, path: Path) -> None:
        write_whole(path, json.dumps(asdict(self)))


def logits_file(directory: Path, dtype: str) -> Path:
    """[tokens, vocabulary] by the number of the prompt."""
    return directory / f"logits.{dtype}.safetensors"


def trace_file(directory: Path) -> Path:
    return directory / "trace.safetensors"


def main(job_file: Path) -> None:
    die_with_parent()
    from easyllm.convert.foreign import open_weights

    question = Question(**json.loads(job_file.read_text("utf-8")))
    with megatron_session(rank_device("cpu"), Layout(), seed=1):
        answer(question, rounded(open_weights(Path(question.checkpoint)), question.rounded))


def rounded(weights: "Weights", dtype: str | None) -> "Weights":
    """The weights in that dtype; as they are stored for None."""
    import torch

    from easyllm.core.families.weights import Rounded

    return weights if dtype is None else Rounded(weights, getattr(torch, dtype))


def answer(question: Question, weights: "Weights") -> None:
    """Leave the files that ``question`` asks for; inside a Megatron session of one rank on the CPU."""
    from safetensors.torch import save_file

    from easyllm.convert.stream import cut, rows
    from easyllm.convert.trace import module_of, save_trace, traced

    out = Path(question.out)
    for dtype in question.dtypes:
        a = replace(Architecture.from_record(question.architecture), dtype=dtype)
        model = _empty(a)
        ids = rows(question.prompts)
        if question.trace is None:
            logits = cut(_run(model, a, weights, ids), question.prompts, a.tokenizer_size)
            save_file(logits, logits_file(out, dtype))
        else:
            modules = {module_of(name): module_of(name) for name in weights.names()}
            # Hooks on the embedding are what follows it: Bloom's norm, which has a name of its own on both sides, and
            # Gemma's factor, which transformers' embedding applies itself.
            with traced(model, modules, slice(*question.trace), before_hooks=not a.embedding_scale) as found:
                _run(model, a, weights, ids)
            save_trace(found, trace_file(out))


def _empty(a: Architecture) -> Any:
    """The model with no weights in it; tied ones apart, because the output layer asks for its own as its turn comes."""
    import torch

    from easyllm.convert.stream import built_empty
    from easyllm.core.megatron.model import build_model

    model = built_empty(lambda: build_model(replace(a, tie_embeddings=False), torch.device("meta"))[0])
    return model.to(getattr(torch, a.dtype))  # Megatron builds the table of positions in fp32, and training casts it


def _run(model: Any, a: Architecture, weights: "Weights", ids: "torch.Tensor") -> "torch.Tensor":
    """[prompts, tokens, padded vocabulary]."""
    import torch

    from easyllm.convert.stream import streamed

    def forward(model: Any) -> torch.Tensor:
        logits: torch.Tensor = model(ids, torch.arange(ids.shape[1])[None], None)
        return logits

    stored = {name: name for name, _ in model.named_parameters()}
    if a.tie_embeddings:
        stored[OUTPUT] = EMBEDDING
    return streamed(model, weights, stored, forward, "logits of Megatron-Core")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
