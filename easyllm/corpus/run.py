"""Run the corpus stage: a tokenizer, then every document through it into Megatron's indexed datasets."""

import time
from collections.abc import Sequence
from contextlib import closing

from easyllm.core.artifact import Decision
from easyllm.core.errors import UserError
from easyllm.core.progress import progress
from easyllm.core.stage import Job, Result
from easyllm.corpus import shards, tokenizer
from easyllm.corpus.checks import empty_parts, no_documents
from easyllm.corpus.clean.dropped import dropped_by_block
from easyllm.corpus.clean.make import TEXT_KEY, clean
from easyllm.corpus.config import CorpusConfig
from easyllm.corpus.coverage import doubtful_ids
from easyllm.corpus.encoder import Encoder, choose
from easyllm.corpus.encoding import KILO, proof_texts, training_texts
from easyllm.corpus.gather import Gathered
from easyllm.corpus.pieces import pieces
from easyllm.corpus.plan import decisions, training_share
from easyllm.corpus.report import write_report
from easyllm.corpus.sample import look
from easyllm.corpus.shards import Shard, Work
from easyllm.corpus.sources import Source, files_of, parts_of, prefixes_of, record_of, sources_of
from easyllm.corpus.vocabulary import token_dtype
from easyllm.corpus.workers import cores, make_shards


def run(job: Job[CorpusConfig]) -> Result:
    """A .bin and .idx for each source and part of the split, tokenizer/, report.json, report.md and lengths.png."""
    begin = time.monotonic()
    config, sources, text_key, cleaned = job.config, sources_of(job), job.config.text_key, None
    if config.clean:
        made = clean(job, sources)
        sources, text_key, cleaned = made.sources, TEXT_KEY, made.cleaned
    files, _ = files_of(sources)
    sample = look(files, text_key)
    learns = training_share(config.tokenizer, files, text_key, sample)
    vocabulary = tokenizer.make(job, training_texts(files, text_key, learns[0]))
    dtype, why = token_dtype(vocabulary.size)
    choice = choose(vocabulary.tokenizer, proof_texts(files, text_key))
    gathered = tokenise(job, sources, text_key, vocabulary, choice.encoder)
    total = _total(gathered.totals)
    total.empty += cleaned.empty if cleaned else 0
    if not sum(total.documents):
        raise UserError(no_documents(len(files), total.empty))
    problems = empty_parts(sources, list(parts_of(config.split)), gathered.totals)
    if problems:
        raise UserError(*problems)
    gathered.finish()
    ledger = vocabulary.ledger()
    duplicates = write_report(job.out, sources, list(parts_of(config.split)), gathered, total, ledger, cleaned)
    decided = [d for d in decisions(config, learns) if d.what != "dtype"] + [Decision("dtype", dtype, why)]
    decided.append(choice.decision)
    return Result(
        kind="corpus",
        metrics={
            "documents": sum(total.documents),
            "tokens": sum(total.tokens),
            "empty_documents": total.empty,
            "duplicate_documents": duplicates,
            **({"dropped_documents": dropped_by_block(cleaned)} if cleaned else {}),
            "bytes_text": total.text_bytes,
            "seconds": round(time.monotonic() - begin, 3),
        },
        decisions=decided,
        records={
            "ledger": ledger,
            "engine": choice.record,
            "tokens": record_of(sources, config.split, gathered.totals, dtype),
        },
    )


def tokenise(
    job: Job[CorpusConfig],
    sources: Sequence[Source],
    text_key: str,
    vocabulary: tokenizer.Vocabulary,
    encoder: Encoder,
) -> Gathered:
    """Every document that is not empty, followed by the end token, in the .bin of its source and part."""
    files, source_of = files_of(sources)
    dtype, _ = token_dtype(vocabulary.size)
    unknown_ids, byte_ids = doubtful_ids(vocabulary.tokenizer)
    work = Work(
        directory=shards.home(job.out), files=files, text_key=text_key,
        encoder=encoder, end_id=vocabulary.end_id, dtype=dtype, vocabulary_size=vocabulary.size, seed=job.seed,
        shares=tuple(parts_of(job.config.split).values()), unknown_ids=unknown_ids, byte_ids=byte_ids,
    )  # fmt: skip
    work.directory.mkdir(exist_ok=True)
    prefixes = [[job.out / name for name in names] for names in prefixes_of(sources, job.config.split)]
    gathered = Gathered(work.directory, prefixes, dtype)
    documents = tokens = read = 0
    made = make_shards(work, pieces(files, text_key, source_of), job.config.workers or cores())
    whole = sum(path.stat().st_size for path in files) // KILO
    with closing(made), progress("tokens", whole, "kB") as bar:
        for piece, shard in made:
            gathered.add(piece, shard)
            documents, tokens = documents + sum(shard.documents), tokens + sum(shard.tokens)
            bar.advance((read + piece.bytes) // KILO - read // KILO, documents=documents, tokens=tokens)
            read += piece.bytes
    return gathered


def _total(totals: Sequence[Shard]) -> Shard:
    parts = len(totals[0].documents)
    total = Shard([0] * parts, [0] * parts)
    for one in totals:
        total.add(one)
    return total
