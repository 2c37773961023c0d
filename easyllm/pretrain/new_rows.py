"""Rows for tokens that the corpus' tokenizer has and the model has not: what each of them begins as.

``pieces`` needs both tokenizers, so that is found out once, before any rank starts; the ranks read a file.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from easyllm.core.artifact import write_whole
from easyllm.core.stage import Job
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.origin import Origin
from easyllm.pretrain.vocabularies import new_tokens, vocabulary

FILE = ".new_rows.json"
CHOICE = "pieces"


@dataclass(frozen=True)
class NewRows:
    """The rows of the embedding and of the output layer that are not the model's own."""

    how: str
    """pieces, mean or random."""
    pieces: dict[int, list[int]]
    """By new id: rows whose mean it begins as. Empty: the mean of all rows."""
    known: int
    """Rows that the model's tokenizer gives: what a mean over all rows is taken of."""

    def write(self, path: Path) -> None:
        write_whole(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> "NewRows":
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return cls(data["how"], {int(row): pieces for row, pieces in data["pieces"].items()}, data["known"])


def choose(job: Job[PretrainConfig]) -> str:
    return job.config.new_rows or CHOICE


def count_of(job: Job[PretrainConfig], origin: Origin) -> int | None:
    """How many tokens are new to the model; None before the corpus has run."""
    found = _vocabularies(job, origin)
    return None if found is None else len(new_tokens(*found))


def new_rows(job: Job[PretrainConfig], origin: Origin) -> NewRows | None:
    """None where the corpus has no token that the model has not."""
    found = _vocabularies(job, origin)
    assert found is not None, "checked"
    model, corpus = found
    new = sorted(new_tokens(model, corpus).values())
    if not new:
        return None
    how, known = choose(job), max(model.values()) + 1
    if how != "pieces":
        return NewRows(how, {row: [] for row in new}, known)
    path = job.inputs["corpus"].path
    assert path is not None
    return NewRows(how, _pieces(origin.directory, path / "tokenizer", new), known)


def _vocabularies(job: Job[PretrainConfig], origin: Origin) -> tuple[dict[str, int], dict[str, int]] | None:
    corpus = job.inputs["corpus"].path
    if corpus is None or job.inputs["corpus"].manifest is None:
        return None
    model, mine = vocabulary(origin.directory), vocabulary(corpus / "tokenizer")
    return None if model is None or mine is None else (model, mine)


def _pieces(model: Path, corpus: Path, new: list[int]) -> dict[int, list[int]]:
    """Each new token's text in the model's own tokens. A text that is no text alone (half a character) has none."""
    from tokenizers import Tokenizer

    theirs = Tokenizer.from_file(str(model / "tokenizer.json"))
    mine = Tokenizer.from_file(str(corpus / "tokenizer.json"))
    texts = {row: mine.decode([row], skip_special_tokens=False) for row in new}
    return {
        row: [] if "\N{REPLACEMENT CHARACTER}" in text else list(theirs.encode(text, add_special_tokens=False).ids)
        for row, text in texts.items()
    }
