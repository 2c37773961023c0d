"""What can be asked of the corpus stage."""

from typing import Annotated

from pydantic import Field, model_validator

from easyllm.core.inputs import Takes
from easyllm.core.section import Section


class TrainTokenizer(Section):
    """A byte-level BPE tokenizer learned from the corpus itself: no text is ever unknown to it."""

    vocab_size: int = Field(default=8000, ge=1)
    """Ids of the tokenizer, the end-of-document token and the 256 bytes included."""
    min_frequency: int = Field(default=2, ge=1)
    """A pair of tokens is merged only if it occurs at least this often."""


class Tokenizer(Section):
    """Where the tokenizer comes from: exactly one of the two."""

    train: TrainTokenizer | None = None
    """Learn one from the corpus."""
    model: Annotated[str | None, Takes("model")] = None
    """Take a Hugging Face fast tokenizer: a directory with tokenizer.json, hf:org/name or modelscope:org/name."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "Tokenizer":
        if (self.train is None) == (self.model is None):
            raise ValueError("give exactly one of train and model")
        return self


class CorpusConfig(Section):
    """Text becomes a tokenizer and indexed tokens, .bin and .idx as Megatron-Core reads them."""

    input: Annotated[list[str], Takes("files")] = Field(min_length=1)
    """JSONL files (.gz and .zst too), .txt files (one document each), folders, globs, or builtin:python-docs."""
    text_key: str = "text"
    """Field of a row that holds its text; the other fields are not used."""
    tokenizer: Tokenizer = Tokenizer(train=TrainTokenizer())
    """The tokenizer."""
