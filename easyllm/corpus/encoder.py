"""Texts to ids: by tiktoken's engine where it is proven on this very corpus, by tokenizers itself everywhere else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from tokenizers import Tokenizer

from easyllm.core.artifact import Decision
from easyllm.core.messages import say
from easyllm.corpus.fast import Fast, NotTheSame, fast_of
from easyllm.corpus.hard_strings import HARD_STRINGS

PROOF_CHARACTERS = 1_000_000
"""Of the corpus, compared as well: about a second of tokenizers' time."""


@dataclass
class Encoder:
    """Gives the ids of texts, special tokens in them being plain text. Pickles: other processes build it anew."""

    tokenizer: Tokenizer
    fast: Fast | None = None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, nothing put before or after."""
        if self.fast is None:
            return self._reference(texts)
        found = [self.fast.encode(text) for text in texts]
        return [self._reference([text])[0] if ids is None else ids for text, ids in zip(texts, found, strict=True)]

    def _reference(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoded.ids for encoded in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def __getstate__(self) -> tuple[str, Fast | None]:
        return self.tokenizer.to_str(), self.fast

    def __setstate__(self, state: tuple[str, Fast | None]) -> None:
        self.tokenizer, self.fast = Tokenizer.from_str(state[0]), state[1]
        self.tokenizer.encode_special_tokens = True  # no part of a tokenizer's file


@dataclass(frozen=True)
class Choice:
    """The encoder of a corpus, and what it was chosen by."""

    encoder: Encoder
    decision: Decision
    record: dict[str, Any]
    """{"engine", "version", "compared": {"documents", "bytes", "hard_strings"}}; without "compared" where none was."""


def choose(tokenizer: Tokenizer, texts: Iterable[str]) -> Choice:
    """The fastest encoder that gives ``tokenizer``'s own ids for every hard string and every one of ``texts``.

    ``tokenizer`` is set up already: special tokens plain text, nothing cut off, nothing filled up.
    """
    reference = Encoder(tokenizer)
    try:
        fast = Encoder(tokenizer, fast_of(tokenizer))
        documents, size = _prove(fast, reference, texts)
    except NotTheSame as error:
        return Choice(reference, Decision("token engine", "tokenizers", str(error)), _record("tokenizers"))
    why = say("why_fast_engine", documents=documents, size=size, strings=len(HARD_STRINGS))
    compared = {"documents": documents, "bytes": size, "hard_strings": len(HARD_STRINGS)}
    return Choice(fast, Decision("token engine", "tiktoken", why), _record("tiktoken") | {"compared": compared})


def _prove(fast: Encoder, reference: Encoder, texts: Iterable[str]) -> tuple[int, int]:
    """(documents, bytes of UTF-8) compared. Raises NotTheSame on the first text whose ids differ."""
    documents = size = 0
    for text in HARD_STRINGS:
        if fast.encode([text]) != reference.encode([text]):
            raise NotTheSame("unlike_hard_string", text=ascii(text[:40]))
    for text in texts:
        documents += 1
        size += len(text.encode())
        if fast.encode([text]) != reference.encode([text]):
            raise NotTheSame("unlike_document", number=documents, text=ascii(text[:40]))
    return documents, size


def _record(engine: str) -> dict[str, Any]:
    return {"engine": engine, "version": version(engine)}
