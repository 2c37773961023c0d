"""One piece of the corpus becomes one shard: its tokens, their lengths and a record of what went into them.

A shard is whole when its record is there; a run that goes on after a kill does no whole shard again.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import nsmallest
from pathlib import Path
from typing import Any

import numpy

from easyllm.core.artifact import write_whole
from easyllm.corpus.documents import Document, of_span
from easyllm.corpus.encoder import Encoder
from easyllm.corpus.encoding import batches
from easyllm.corpus.indexed import DocumentWriter, sync_and_close
from easyllm.corpus.pieces import PIECE_BYTES, Piece

HASH_BYTES = 8
SHOWN_DOCUMENTS = 10
SHOWN_CHARACTERS = 300


@dataclass(frozen=True)
class Work:
    """What every worker must know; it is sent to each once."""

    directory: Path
    """Where the shards are kept."""
    files: tuple[Path, ...]
    text_key: str
    encoder: Encoder
    end_id: int
    dtype: str
    vocabulary_size: int
    seed: int
    shares: tuple[float, ...] = (1.0,)
    """Of the documents, for each part of the split; together 1."""
    unknown_ids: tuple[int, ...] = ()
    byte_ids: tuple[int, ...] = ()
    """Ids that stand for one byte of a character that the vocabulary does not have."""


@dataclass
class Shard:
    """What went into one shard; several are added up to what went into the corpus."""

    documents: list[int]
    """By part of the split; so are the tokens."""
    tokens: list[int]
    """The end-of-document tokens counted."""
    empty: int = 0
    text_bytes: int = 0
    """UTF-8 bytes of the documents that are not empty."""
    unknown: int = 0
    byte_tokens: int = 0
    file_documents: Counter[int] = field(default_factory=Counter)
    file_tokens: Counter[int] = field(default_factory=Counter)
    shown: list[list[Any]] = field(default_factory=list)
    """[hash, index of the file, tokens, beginning of the text] of the documents with the smallest hashes: a fair draw
    that does not depend on order."""

    def add(self, other: "Shard") -> None:
        self.documents = [a + b for a, b in zip(self.documents, other.documents, strict=True)]
        self.tokens = [a + b for a, b in zip(self.tokens, other.tokens, strict=True)]
        self.empty += other.empty
        self.text_bytes += other.text_bytes
        self.unknown += other.unknown
        self.byte_tokens += other.byte_tokens
        self.file_documents += other.file_documents
        self.file_tokens += other.file_tokens
        self.show(other.shown)

    def show(self, more: list[list[Any]]) -> None:
        """Keep the documents that are to be shown, each text once."""
        by_hash = {entry[0]: entry for entry in [*more, *self.shown]}
        self.shown = nsmallest(SHOWN_DOCUMENTS, by_hash.values())


def home(out: Path) -> Path:
    """Where a run keeps its shards; another size of the pieces makes others."""
    return out / f".shards-{PIECE_BYTES}"


def tokens_file(directory: Path, number: int, part: int) -> Path:
    return directory / f"{number:08d}.{part}.bin"


def lengths_file(directory: Path, number: int, part: int) -> Path:
    return directory / f"{number:08d}.{part}.lengths"


def hashes_file(directory: Path, number: int) -> Path:
    """8 bytes a document: equal texts have equal ones."""
    return directory / f"{number:08d}.hashes"


def record_file(directory: Path, number: int) -> Path:
    return directory / f"{number:08d}.json"


def read_shard(directory: Path, number: int) -> Shard | None:
    """What a shard holds that is there and whole."""
    path = record_file(directory, number)
    if not path.is_file():
        return None
    data = json.loads(path.read_text("utf-8"))
    for name in ("file_documents", "file_tokens"):
        data[name] = Counter({int(file): count for file, count in data[name].items()})
    return Shard(**data)


class Shaper:
    """Makes shards, one piece after the other."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._unknown, self._bytes = (_table(ids, work.vocabulary_size) for ids in (work.unknown_ids, work.byte_ids))
        self._salt = work.seed.to_bytes(16, "little", signed=True)
        self._bounds = [int(sum(work.shares[: n + 1]) * 256**HASH_BYTES) for n in range(len(work.shares) - 1)]

    def make(self, piece: Piece) -> Shard:
        """The shard of ``piece``, its record written last. Raises UserError as documents do."""
        work, number = self._work, piece.number
        parts = len(work.shares)
        writers = [
            DocumentWriter(tokens_file(work.directory, number, n), lengths_file(work.directory, number, n), work.dtype)
            for n in range(parts)
        ]
        shard = Shard([0] * parts, [0] * parts)
        with hashes_file(work.directory, number).open("wb") as hashes:
            for batch in batches(self._documents(piece, shard)):
                for document, ids in zip(batch, work.encoder.encode([d.text for d in batch]), strict=True):
                    data = document.text.encode()
                    mark = blake2b(data, digest_size=HASH_BYTES, salt=self._salt).digest()
                    hashes.write(mark)
                    part = self._part(mark)
                    ids.append(work.end_id)
                    written = writers[part].add(ids)
                    self._count(shard, document, part, written, len(data))
                    shard.show([[mark.hex(), document.file, len(written), document.text[:SHOWN_CHARACTERS]]])
            sync_and_close(hashes)
        for writer in writers:
            writer.close()
        write_whole(record_file(work.directory, number), json.dumps(vars(shard)))
        return shard

    def _documents(self, piece: Piece, shard: Shard) -> Iterator[Document]:
        for span in piece.spans:
            for document in of_span(span, self._work.files, self._work.text_key):
                if document.empty:
                    shard.empty += 1
                else:
                    yield document

    def _part(self, mark: bytes) -> int:
        value = int.from_bytes(mark, "little")
        return sum(value >= bound for bound in self._bounds)

    def _count(self, shard: Shard, document: Document, part: int, ids: Any, text_bytes: int) -> None:
        shard.documents[part] += 1
        shard.tokens[part] += len(ids)
        shard.text_bytes += text_bytes
        shard.file_documents[document.file] += 1
        shard.file_tokens[document.file] += len(ids)
        if self._unknown is not None:
            shard.unknown += int(self._unknown[ids].sum())
        if self._bytes is not None:
            shard.byte_tokens += int(self._bytes[ids].sum())


def _table(ids: Sequence[int], size: int) -> Any:
    """True at each of ``ids``; None where there are none."""
    if not ids:
        return None
    table = numpy.zeros(size, dtype=bool)
    table[list(ids)] = True
    return table
