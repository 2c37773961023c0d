"""What can be asked of the corpus stage."""

from typing import Annotated

from pydantic import Field

from easyllm.core.inputs import Takes
from easyllm.core.section import Section


class TrainTokenizer(Section):
    """A byte-level BPE tokenizer learned from the corpus itself: no text is ever unknown to it."""

    vocab_size: int = 8000
    """Ids of the tokenizer: the 256 bytes, 2 special tokens, and merges."""
    min_frequency: Annotated[int, Field(ge=1)] = 2
    """A pair of tokens is merged only if it occurs at least this often."""
    text_bytes: Annotated[int, Field(ge=1)] = 200_000_000
    """How much text to learn from, in bytes of UTF-8, taken evenly from the corpus; a smaller corpus is used whole."""


class TokenizerConfig(Section):
    """Where the tokenizer comes from: exactly one of train and model."""

    train: TrainTokenizer | None = None
    """Learn one from the corpus."""
    model: Annotated[str | None, Takes("model")] = None
    """Take the tokenizer of a model: a directory with tokenizer.json, with GPT-2's vocab.json and merges.txt or with
    SentencePiece's tokenizer.model, a .model or .gguf file, hf:org/name, modelscope:org/name or package:NAME."""
    extend: tuple[str, ...] = ()
    """Words to add, each one token wherever a text has it; every id of the tokenizer stays what it was."""
    extend_from: Annotated[str | None, Takes("files")] = None
    """A text file of such words, one a line; they come after those of extend."""


class CorpusConfig(Section):
    """Text becomes a tokenizer and indexed tokens, .bin and .idx as Megatron-Core reads them."""

    input: Annotated[list[str], Takes("files"), Field(min_length=1)]
    """Files, folders, globs, builtin:NAME: JSONL, .json with one list, .txt of one document, also .gz and .zst."""
    text_key: str = "text"
    """Key of the row that holds the document's text; the other keys are not used."""
    tokenizer: TokenizerConfig = TokenizerConfig(train=TrainTokenizer())
    """Learn a tokenizer, or take one that exists."""
