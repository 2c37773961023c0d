"""The first weights of a model that goes on: a Hugging Face model's, with rows for new tokens."""

import hashlib
import json
from dataclasses import replace

import torch

from easyllm.core.families.config import CONFIG, architecture_of, family_of
from easyllm.core.families.mapping import AsMegatron
from easyllm.core.families.weights import HfFiles, Weights
from easyllm.core.megatron.architecture import Architecture
from easyllm.pretrain.job import Start
from easyllm.pretrain.new_rows import NewRows

VOCABULARY = ("embedding.word_embeddings.weight", "output_layer.weight")
"""What has a row for every token, as Megatron calls it."""


def weights_of(start: Start, a: Architecture, seed: int) -> Weights:
    """Every tensor of ``a`` under Megatron's name, whole, made as it is read. StageFailed where the files lack one."""
    config = json.loads((start.directory / CONFIG).read_text("utf-8"))
    own = replace(a, tokenizer_size=architecture_of(config).tokenizer_size)
    theirs = AsMegatron(HfFiles(start.directory), own, family_of(config))
    return theirs if start.new_rows is None else WithNewRows(theirs, a, NewRows.read(start.new_rows), seed)


class WithNewRows:
    """``theirs`` with rows for new tokens in embedding and output layer."""

    def __init__(self, theirs: Weights, a: Architecture, rows: NewRows, seed: int) -> None:
        self._theirs, self._a, self._rows, self._seed = theirs, a, rows, seed

    def names(self) -> list[str]:
        return self._theirs.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._theirs.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._theirs.dtype(name)

    def read(self, name: str) -> torch.Tensor:
        whole = self._theirs.read(name)
        if name in VOCABULARY:
            self._fill(name, whole)
        return whole

    def _fill(self, name: str, whole: torch.Tensor) -> None:
        """Means are taken in fp32, and of the model's own rows: a new token may have new ones behind it only."""
        new = sorted(self._rows.pieces)
        if self._rows.how == "random":
            digest = hashlib.sha256(f"{self._seed} new rows of {name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            drawn = torch.empty(len(new), whole.shape[1]).normal_(0.0, self._a.init_std, generator=generator)
            whole[new] = drawn.to(whole.dtype)
            return
        mean = whole[: self._rows.known].float().mean(0)
        made = [whole[pieces].float().mean(0) if pieces else mean for pieces in map(self._rows.pieces.get, new)]
        whole[new] = torch.stack(made).to(whole.dtype)
