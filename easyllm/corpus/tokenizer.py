"""A tokenizer, trained or taken over, in the directory that later stages load with AutoTokenizer."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from easyllm.core.artifact import sync_tree
from easyllm.core.errors import UserError, problem
from easyllm.core.memory import give_memory_back
from easyllm.core.models import local_tokenizer, quiet_libraries
from easyllm.core.stage import Job
from easyllm.corpus import tokenizer_files
from easyllm.corpus.config import CorpusConfig, TrainTokenizer
from easyllm.corpus.extend import extend
from easyllm.corpus.foreign import from_gpt2, from_sentencepiece
from easyllm.corpus.vocabulary import PAD, SPECIAL_TOKENS, token_dtype
from easyllm.corpus.words import words_of


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer ready to encode whole corpora, and its ledger."""

    tokenizer: Tokenizer
    end: str
    """The token put after every document."""

    @property
    def end_id(self) -> int:
        found = self.tokenizer.token_to_id(self.end)
        assert found is not None
        return int(found)

    @property
    def size(self) -> int:
        """Ids run from 0 to size - 1; a vocabulary with holes counts them."""
        return int(max(self.tokenizer.get_vocab(with_added_tokens=True).values())) + 1

    def ledger(self) -> dict[str, Any]:
        """What pretraining and conversion must know: tokenizer_size, special ids by token, eod_id, dtype."""
        added = self.tokenizer.get_added_tokens_decoder()
        return {
            "tokenizer_size": self.size,
            "special": {token.content: int(id) for id, token in sorted(added.items()) if token.special},
            "eod": self.end,
            "eod_id": self.end_id,
            "dtype": token_dtype(self.size)[0],
        }


def make(job: Job[CorpusConfig], texts: Iterator[str]) -> Vocabulary:
    """The vocabulary of ``job.out / "tokenizer"``; it is made first unless a cut run left it there whole."""
    final = job.out / "tokenizer"
    if not final.is_dir():
        partial = job.out / ".tokenizer"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        asked = job.config.tokenizer.train
        if asked:
            train(asked, texts, partial)
        else:
            take_over(job, partial)
        _extend(job, partial)
        sync_tree(partial)
        os.rename(partial, final)
    return load(final, trained=job.config.tokenizer.train is not None)


def _extend(job: Job[CorpusConfig], directory: Path) -> None:
    """Add the words of the recipe; what stock code loads must have them at the same ids."""
    words = words_of(job)
    if not words:
        return
    ids = extend(directory, words)
    loaded = load(directory, trained=job.config.tokenizer.train is not None).tokenizer
    if ids != {word: loaded.token_to_id(word) for word in words}:
        raise UserError(tokenizer_files.unusable(directory, "transformers gives the added tokens other ids"))


def train(asked: TrainTokenizer, texts: Iterator[str], directory: Path) -> None:
    """Learn a byte-level BPE from ``texts``. Raises UserError CORPUS-007 when they do not yield the size asked for."""
    tokenizer = Tokenizer(models.BPE())
    # GPT-2's own split pattern: every engine and server knows it, so the vocabulary can move between them.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=asked.vocab_size,
        min_frequency=asked.min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # all 256 bytes, so no text is ever unknown
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    give_memory_back()  # what the trainer held: the workers to come are other processes
    reached = tokenizer.get_vocab_size()
    if reached != asked.vocab_size:
        raise UserError(
            problem(
                "CORPUS-007", stage="corpus", key="corpus.tokenizer.train.vocab_size",
                asked=asked.vocab_size, reached=reached, frequency=asked.min_frequency,
            )
        )  # fmt: skip
    tokenizer.save(str(directory / "tokenizer.json"))
    tokenizer_files.write_config(directory, pad=PAD)


def take_over(job: Job[CorpusConfig], directory: Path) -> None:
    """The tokenizer of the model as it is. Raises UserError CORPUS-005, CORPUS-006 and CORPUS-022."""
    model = job.inputs["tokenizer.model"]
    if model.path and model.path.suffix == ".gguf":
        _out_of_gguf(model.path, directory)
    elif model.path and model.path.is_file():
        from_sentencepiece(model.path, directory)
    else:
        _copy(tokenizer_files.home(local_tokenizer(model, job.cache_dir, job.stage)), directory)
    load(directory, trained=False)  # a tokenizer that cannot be loaded must not look whole


def _copy(source: Path, directory: Path) -> None:
    problems = tokenizer_files.problems_of(source)
    if problems:
        raise UserError(*problems)
    kind = tokenizer_files.kind_of(source)
    if kind == "sentencepiece":
        return from_sentencepiece(source / "tokenizer.model", directory)
    if kind == "gpt2":
        return from_gpt2(source / "vocab.json", source / "merges.txt", directory)
    for name in tokenizer_files.FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)


def _out_of_gguf(path: Path, directory: Path) -> None:
    """Without the weights: only the tokenizer is read out of the file."""
    from transformers import AutoTokenizer

    quiet_libraries()
    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
    tokenizer.model_max_length = tokenizer_files.NO_LIMIT_TOKENS
    tokenizer.save_pretrained(directory)


def load(directory: Path, trained: bool) -> Vocabulary:
    """What stock code makes of the directory: transformers rebuilds some families from parts of tokenizer.json."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json")) if trained else _as_transformers(directory)
    end = tokenizer_files.end_token(directory)
    if end is None or tokenizer.token_to_id(end) is None:
        raise UserError(tokenizer_files.no_end(directory))
    tokenizer.encode_special_tokens = True  # special tokens inside a document are plain text
    tokenizer.no_truncation()  # some tokenizer.json files carry a length limit, which would cut documents
    tokenizer.no_padding()
    return Vocabulary(tokenizer, end)


def _as_transformers(directory: Path) -> Tokenizer:
    try:
        json.loads((directory / "tokenizer.json").read_text("utf-8"))
    except ValueError as error:
        raise UserError(tokenizer_files.unusable(directory, f"tokenizer.json: {error}")) from error
    from transformers import AutoTokenizer

    quiet_libraries()
    try:
        loaded = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(tokenizer_files.unusable(directory, str(error).splitlines()[0])) from error
    if not loaded.is_fast:
        raise UserError(tokenizer_files.unusable(directory, f"{type(loaded).__name__} is not a fast tokenizer"))
    backend: Tokenizer = loaded.backend_tokenizer
    return backend
