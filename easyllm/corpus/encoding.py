"""Texts to ids: the encoder that every worker builds, and the batches it is given."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from easyllm.core.progress import Progress, progress
from easyllm.corpus.documents import Document, read_documents

if TYPE_CHECKING:
    from easyllm.corpus.tokenizer import Vocabulary

BATCH_CHARACTERS = 1 << 19
"""An encoding takes some hundred bytes a token while its batch lasts, in every worker."""

KILO = 1000


@dataclass(frozen=True)
class EncoderFiles:
    """What a worker process needs to build the encoder of the corpus."""

    directory: Path
    """The tokenizer's."""
    trained: bool
    """By us, so that tokenizer.json alone says everything."""

    def open(self) -> "Encoder":
        from easyllm.corpus.tokenizer import load

        return Encoder(load(self.directory, self.trained))


class Encoder:
    """Texts to their ids, without special tokens."""

    def __init__(self, vocabulary: "Vocabulary") -> None:
        self._tokenizer = vocabulary.tokenizer

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


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
