"""Documents to tokens, in batches over all cores, in constant memory."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from easyllm.core.progress import Progress, progress
from easyllm.corpus.documents import Document, of_file, read_documents
from easyllm.corpus.encoder import PROOF_CHARACTERS, Encoder
from easyllm.corpus.indexed import IndexedWriter

BATCH_CHARACTERS = 1 << 21
"""Enough documents for every core; an encoding takes some hundred bytes a token while its batch lasts."""

KILO = 1000


@dataclass
class Counts:
    """What went into the tokens."""

    documents: int = 0
    empty: int = 0
    tokens: int = 0
    """The end-of-document tokens counted."""
    text_bytes: int = 0
    """UTF-8 bytes of the documents that are not empty."""
    file_documents: list[int] = field(default_factory=list)
    file_tokens: list[int] = field(default_factory=list)

    def add(self, document: Document, tokens: int) -> None:
        self.documents += 1
        self.tokens += tokens
        self.text_bytes += len(document.text.encode())
        self.file_documents[document.file] += 1
        self.file_tokens[document.file] += tokens


def encode(files: Sequence[Path], text_key: str, encoder: Encoder, end_id: int, writer: IndexedWriter) -> Counts:
    """Every document that is not empty, followed by the end token, into ``writer``."""
    counts = Counts(file_documents=[0] * len(files), file_tokens=[0] * len(files))
    with FileProgress("tokens", files) as bar:
        for batch in batches(count_empty(read_documents(files, text_key), counts)):
            for document, ids in zip(batch, encoder.encode([d.text for d in batch]), strict=True):
                ids.append(end_id)
                writer.add(ids)
                counts.add(document, len(ids))
            bar.reached(batch[-1], documents=counts.documents, tokens=counts.tokens)
    return counts


def count_empty(documents: Iterable[Document], counts: Counts) -> Iterator[Document]:
    """The documents that are not empty; the others are counted."""
    for document in documents:
        if document.empty:
            counts.empty += 1
        else:
            yield document


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Lists of documents of about ``BATCH_CHARACTERS``; a longer document is alone."""
    batch: list[Document] = []
    held = 0
    for document in documents:
        if batch and held + len(document.text) > BATCH_CHARACTERS:
            yield batch
            batch, held = [], 0
        batch.append(document)
        held += len(document.text)
    if batch:
        yield batch


def training_texts(files: Sequence[Path], text_key: str, share: float) -> Iterator[str]:
    """``share`` of the text, taken evenly: a document is in while what was taken is below its share of what passed."""
    passed = taken = 0
    with FileProgress("tokenizer", files) as bar:
        for document in read_documents(files, text_key):
            if taken <= share * passed:
                taken += len(document.text)
                yield document.text
            passed += len(document.text)
            bar.reached(document)


def proof_texts(files: Sequence[Path], text_key: str, most_files: int = 50) -> Iterator[str]:
    """The heads of files taken evenly, ``PROOF_CHARACTERS`` in all: what the encoder is proven on."""
    chosen = range(0, len(files), -(-len(files) // most_files))
    for index in chosen:
        left = PROOF_CHARACTERS // len(chosen)
        for document in of_file(index, files[index], text_key):
            if left <= 0:
                break
            if not document.empty:
                left -= len(document.text)
                yield document.text


class FileProgress:
    """A bar over the bytes of several files, as they lie on disk."""

    def __init__(self, label: str, files: Sequence[Path]) -> None:
        sizes = [path.stat().st_size for path in files]
        self._before = [sum(sizes[:index]) for index in range(len(sizes))]
        self._total, self._shown = sum(sizes) // KILO, 0
        self._opened = progress(label, self._total, "kB")

    def __enter__(self) -> "FileProgress":
        self._bar: Progress = self._opened.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._bar.advance(self._total - self._shown)
        self._opened.__exit__(*error)  # type: ignore[arg-type]

    def reached(self, document: Document, **figures: int) -> None:
        """Reading has come to the end of ``document``."""
        now = (self._before[document.file] + document.position) // KILO
        if now > self._shown or figures:
            self._bar.advance(now - self._shown, **figures)
            self._shown = now
