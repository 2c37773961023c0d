"""What can be asked of the corpus stage."""

from typing import Annotated

from pydantic import Field

from easyllm.core.inputs import Takes
from easyllm.core.section import Section
from easyllm.corpus.clean.config import CleanConfig


class TrainTokenizer(Section):
    """A byte-level BPE tokenizer learned from the corpus itself: no text is ever unknown to it."""

    vocab_size: int = 8000
    """Ids of the tokenizer: the 256 bytes, 2 special tokens, and merges."""
    min_frequency: Annotated[int, Field(ge=1)] = 2
    """A pair of tokens is merged only if it occurs at least this often."""
    text_bytes: Annotated[int | None, Field(ge=1)] = None
    """How much text to learn from, in bytes of UTF-8, taken evenly from the corpus; a smaller corpus is used whole.
    null: 200,000,000, or what fits 600 MB of memory where that is less, as with Chinese; more is yours to ask for, at
    100 bytes of memory for each byte of different words."""


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


class WeightedSource(Section):
    """Files that pretraining draws from with a weight of their own."""

    source: Annotated[list[str], Takes("files", columns=True), Field(min_length=1)]
    """As a plain corpus.input: files, folders, globs, builtin:NAME."""
    weight: Annotated[float, Field(gt=0)]
    """Share of the training samples, in relation to the other sources' weights."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Names its files and its lines in the report."""


class Split(Section):
    """Parts of the documents, in relation to each other: 98, 1, 1. Equal texts are never in two parts."""

    train: Annotated[float, Field(gt=0)]
    """For training."""
    valid: Annotated[float, Field(ge=0)] = 0
    """For the loss that is watched while training."""
    test: Annotated[float, Field(ge=0)] = 0
    """For the loss at the very end."""


class CorpusConfig(Section):
    """Text becomes a tokenizer and indexed tokens, .bin and .idx as Megatron-Core reads them."""

    input: Annotated[list[str | WeightedSource], Takes("files", columns=True), Field(min_length=1)]
    """Files, folders, globs, builtin:NAME: JSONL, .json with one list, .txt of one document, also .gz and .zst;
    Parquet, and folders that Hugging Face datasets saved to disk. Or several sources, each {source, weight, name}."""
    text_key: str = "text"
    """Key of the row, or column, that holds the document's text; the others are not used."""
    clean: CleanConfig | None = None
    """Blocks that drop documents before the tokenizer sees them; null: all stay in."""
    tokenizer: TokenizerConfig = TokenizerConfig(train=TrainTokenizer())
    """Learn a tokenizer, or take one that exists."""
    split: Split | None = None
    """Documents to hold back from training, chosen by a hash of seed and text; null: all are for training."""
    workers: Annotated[int | None, Field(ge=1, exclude=True)] = None
    """Processes that tokenise at the same time; null: one a core. The result is the same whatever the number."""

    @property
    def plain(self) -> list[str]:
        """The references of ``input`` that have no weight; checks refuse a mixture."""
        return [entry for entry in self.input if isinstance(entry, str)]

    @property
    def weighted(self) -> list[WeightedSource]:
        return [entry for entry in self.input if isinstance(entry, WeightedSource)]
