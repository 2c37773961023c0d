"""The Hugging Face model that training goes on from: where it lies, what it is, whether the corpus is in its tokens."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from easyllm.core.families.config import read_architecture
from easyllm.core.megatron.architecture import Architecture, padded_vocabulary
from easyllm.core.models import present_model
from easyllm.core.stage import Job
from easyllm.pretrain.architecture import architecture_of, special_ids
from easyllm.pretrain.config import PretrainConfig

KEY = "pretrain.init"


@dataclass(frozen=True)
class Origin:
    """A model that is on this machine."""

    ref: str
    directory: Path
    architecture: Architecture
    """As its config.json says it: its ``tokenizer_size`` is the rows of its embedding."""

    @property
    def rows(self) -> int:
        return self.architecture.tokenizer_size


def origin_of(job: Job[PretrainConfig], directory: Path | None = None) -> Origin | None:
    """None where the recipe trains from nothing, or from a model that is not here yet.

    ``directory`` is the model's, where that is known. UserError CONVERT-010 to -014 for a model that Megatron-Core
    cannot express.
    """
    found = job.inputs.get("init")
    if found is None:
        return None
    directory = directory or present_model(found, job.cache_dir)
    if directory is None:
        return None
    return Origin(found.ref, directory, read_architecture(directory, "pretrain", KEY))


def architecture_in(
    config: PretrainConfig, origin: Origin | None, ledger: dict[str, Any], dtype: str, padded: int | None = None
) -> Architecture:
    """What is trained, be it new or going on."""
    if origin is None:
        return architecture_of(config, ledger, dtype, padded)
    return _going_on(origin, config, ledger, dtype, padded)


def _going_on(
    origin: Origin, config: PretrainConfig, ledger: dict[str, Any], dtype: str, padded: int | None
) -> Architecture:
    """The model with rows for all tokens of the corpus. It may have more rows than its tokenizer: they stay."""
    rows = max(origin.rows, int(ledger["tokenizer_size"]))
    return replace(
        origin.architecture,
        dropout=config.dropout or 0.0,
        dtype=dtype,
        tokenizer_size=rows,
        padded_vocabulary=padded or padded_vocabulary(rows, config.parallel.tensor),
        tensor_parallel=config.parallel.tensor,
        special_ids=origin.architecture.special_ids | special_ids(ledger),
    )
