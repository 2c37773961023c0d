"""Run the corpus stage: a tokenizer, then every document through it into Megatron's indexed dataset."""

import time

from easyllm.core.artifact import Decision
from easyllm.core.errors import UserError
from easyllm.core.stage import Job, Result
from easyllm.corpus import tokenizer
from easyllm.corpus.checks import no_documents
from easyllm.corpus.config import CorpusConfig
from easyllm.corpus.encoder import choose
from easyllm.corpus.encoding import Counts, encode, proof_texts, training_texts
from easyllm.corpus.indexed import IndexedWriter
from easyllm.corpus.plan import decisions, training_share
from easyllm.corpus.report import write_report
from easyllm.corpus.sample import look
from easyllm.corpus.vocabulary import token_dtype

PREFIX = "tokens"


def run(job: Job[CorpusConfig]) -> Result:
    """tokens.bin, tokens.idx, tokenizer/, report.json, report.md and lengths.png in ``job.out``."""
    begin = time.monotonic()
    files, key = job.inputs["input"].files, job.config.text_key
    sample = look(files, key)
    share = training_share(job.config.tokenizer, sample)
    vocabulary = tokenizer.make(job, training_texts(files, key, share))
    dtype, why = token_dtype(vocabulary.size)
    choice = choose(vocabulary.tokenizer, proof_texts(files, key))
    writer = IndexedWriter(job.out / PREFIX, dtype)
    counts = encode(files, key, choice.encoder, vocabulary.end_id, writer)
    if not counts.documents:
        raise UserError(no_documents(len(files), counts.empty))
    writer.finish()
    ledger = vocabulary.ledger()
    write_report(job.out, files, counts, writer.lengths, ledger)
    made = [d for d in decisions(job.config, sample) if d.what != "dtype"] + [Decision("dtype", dtype, why)]
    made.append(choice.decision)
    return Result(
        kind="corpus",
        metrics=_metrics(counts, time.monotonic() - begin),
        decisions=made,
        records={
            "ledger": ledger,
            "engine": choice.record,
            "tokens": {
                "prefix": PREFIX, "documents": counts.documents, "tokens": counts.tokens, "dtype": dtype,
            },
        },
    )  # fmt: skip


def _metrics(counts: Counts, seconds: float) -> dict[str, float | int]:
    return {
        "documents": counts.documents,
        "tokens": counts.tokens,
        "empty_documents": counts.empty,
        "bytes_text": counts.text_bytes,
        "seconds": round(seconds, 3),
    }
