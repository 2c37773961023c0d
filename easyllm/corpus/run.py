"""Make the corpus: tokenizer first, then every document to token ids, streaming."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.errors import refuse
from easyllm.core.models import local_model
from easyllm.core.progress import Progress, progress
from easyllm.core.stage import Job, Result
from easyllm.corpus import tokenizer as tokenizers
from easyllm.corpus.config import CorpusConfig, TrainTokenizer
from easyllm.corpus.documents import Document, documents
from easyllm.corpus.report import Tally, write_report
from easyllm.corpus.tokens import TokensWriter, smallest_dtype

BATCH_DOCUMENTS = 1000
BATCH_CHARACTERS = 4_000_000
"""A batch ends at either limit: enough for all cores, and memory stays flat with long documents."""


def run(job: Job[CorpusConfig]) -> Result:
    tokenizer, decision = _tokenizer(job)
    dtype = smallest_dtype(len(tokenizer))
    ledger = tokenizers.ledger(tokenizer, dtype)
    tally = Tally()
    with TokensWriter(job.out / "tokens", dtype) as out:
        _encode(job, tokenizer, out, tally)
        lengths = out.lengths
    if not tally.documents:
        raise refuse("CORPUS-003", stage=job.stage, key="corpus.input", files=len(job.inputs["input"].files))
    write_report(job.out, tally, lengths, ledger)
    tokens = {"prefix": "tokens", "documents": tally.documents, "tokens": tally.tokens, "dtype": dtype}
    metrics = {
        "documents": tally.documents,
        "empty_documents": tally.empty_documents,
        "tokens": tally.tokens,
        "text_bytes": tally.text_bytes,
        "vocabulary": len(tokenizer),
    }
    return Result("corpus", metrics, [decision], {"ledger": ledger, "tokens": tokens})


def _tokenizer(job: Job[CorpusConfig]) -> tuple[Any, Decision]:
    """The tokenizer, also saved in the artifact; one that a cut run has already learned is taken as it is."""
    home = job.out / "tokenizer"
    wanted = job.config.tokenizer.train
    if wanted is None:
        source = job.inputs["tokenizer.model"]
        directory = local_model(source, job.cache_dir, job.stage)
        inner = directory / "tokenizer"  # a corpus artifact keeps it one level down
        tokenizer = tokenizers.load(inner if inner.is_dir() else directory, job.stage)
        if not home.is_dir():
            tokenizers.save(tokenizer, home)
        return tokenizer, Decision("tokenizer", source.ref, "the recipe names it")
    if not home.is_dir():
        tokenizers.save(_learn(job, wanted), home)
    tokenizer = tokenizers.load(home, job.stage)
    return tokenizer, _size_decision(len(tokenizer), wanted)


def _learn(job: Job[CorpusConfig], wanted: TrainTokenizer) -> Any:
    with _bar(job, "tokenizer") as bar:
        return tokenizers.learn((document.text for document in _all_documents(job, bar)), wanted)


def _size_decision(size: int, wanted: TrainTokenizer) -> Decision:
    if size < wanted.vocab_size:
        why = f"the corpus has no further pair that occurs {wanted.min_frequency} times; {wanted.vocab_size} were asked"
    else:
        why = "as asked"
    return Decision("vocabulary", size, why)


def _encode(job: Job[CorpusConfig], tokenizer: Any, out: TokensWriter, tally: Tally) -> None:
    engine, end = tokenizers.encoder(tokenizer), tokenizer.eos_token_id
    with _bar(job, "corpus") as bar:
        for batch in _batches(_all_documents(job, bar), tally):
            encodings = engine.encode_batch_fast([d.text for d in batch], add_special_tokens=False)
            for document, encoding in zip(batch, encodings, strict=True):
                ids = [*encoding.ids, end]
                out.add(ids)
                tally.documents += 1
                tally.tokens += len(ids)
                tally.text_bytes += len(document.text.encode())
                name = document.file.name
                tally.tokens_by_file[name] = tally.tokens_by_file.get(name, 0) + len(ids)


def _batches(found: Iterator[Document], tally: Tally) -> Iterator[list[Document]]:
    """Documents with text, in batches; empty ones are counted and left out."""
    batch: list[Document] = []
    characters = 0
    for document in found:
        if not document.text.strip():
            tally.empty_documents += 1
            continue
        batch.append(document)
        characters += len(document.text)
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _all_documents(job: Job[CorpusConfig], bar: Progress) -> Iterator[Document]:
    for file in job.inputs["input"].files:
        position = 0
        for document in documents(file, job.config.text_key, job.stage):
            yield document
            bar.advance(document.position - position)
            position = document.position
        bar.advance(_size(file) - position)


def _bar(job: Job[CorpusConfig], label: str) -> Any:
    return progress(label, sum(_size(file) for file in job.inputs["input"].files), "bytes")


def _size(file: Path) -> int:
    return file.stat().st_size
