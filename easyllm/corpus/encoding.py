"""Which texts are given to the encoder and to those who prepare it, and in what batches."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from easyllm.core.progress import Progress, progress
from easyllm.corpus.documents import Document, Span, of_span, read_documents
from easyllm.corpus.encoder import PROOF_CHARACTERS

BATCH_CHARACTERS = 1 << 19
"""An encoding takes some hundred bytes a token while its batch lasts, in every worker."""

KILO = 1000


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
        for document in of_span(Span(index), files, text_key):
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
