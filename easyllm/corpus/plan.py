"""What the corpus stage would do, estimated from the heads of the files."""

import math
from collections.abc import Sequence
from pathlib import Path

from easyllm.core.artifact import Decision
from easyllm.core.messages import say
from easyllm.core.stage import Job, Plan
from easyllm.corpus.clean.config import CleanConfig
from easyllm.corpus.clean.elsewhere import command, elsewhere
from easyllm.corpus.config import CorpusConfig, TokenizerConfig
from easyllm.corpus.learning import learning_bytes
from easyllm.corpus.sample import Sample, look
from easyllm.corpus.sources import files_of, sources_of
from easyllm.corpus.vocabulary import dtype_bytes, plain_specials, token_dtype

TAKEN_OVER_BYTES_PER_TOKEN = 4.0
"""English prose under the vocabularies of 32,000 to 150,000 tokens that models ship with."""

INDEX_BYTES_PER_DOCUMENT = 32
"""20 in the index, 12 more in the shards until they are published."""
TOKENIZER_BYTES = 20_000_000
PACKED_SHARE = 0.5
"""Of its bytes that text takes when it is packed by zstd, on the safe side: prose takes less."""


def plan(job: Job[CorpusConfig]) -> Plan:
    """Documents, tokens and disk; what was not read is an estimate and says so."""
    files, _ = files_of(sources_of(job))
    sample = look(files, job.config.text_key)
    documents = round(sample.documents * sample.scale)
    text = round(sample.text_bytes * sample.scale)
    tokens = round(text / bytes_per_token(job.config.tokenizer)) + documents
    dtype, _ = _dtype(job.config.tokenizer)
    learns = training_share(job.config.tokenizer, files, job.config.text_key, sample)
    exact = "" if sample.whole else " (estimate)"
    return Plan(
        figures={
            "files": len(files),
            "input, bytes": sample.total_bytes,
            f"documents{exact}": documents,
            f"empty documents, skipped{exact}": round(sample.empty * sample.scale),
            f"text, bytes of UTF-8{exact}": text,
            "tokens (estimate)": tokens,
        },
        commands=[command(job)] if elsewhere(job) else [],
        decisions=[*decisions(job.config, learns), *_of_cluster(job)],
        disk_bytes=tokens * dtype_bytes(dtype)
        + documents * INDEX_BYTES_PER_DOCUMENT
        + TOKENIZER_BYTES
        + cleaning_bytes(job.config.clean, documents, text),
    )


def bytes_per_token(config: TokenizerConfig) -> float:
    """Bytes of UTF-8 a token stands for: a straight line in the logarithm of the vocabulary, measured on English."""
    if not config.train:
        return TAKEN_OVER_BYTES_PER_TOKEN
    return min(4.5, 0.5 * math.log2(max(256, config.train.vocab_size)) - 2.6)


def training_share(config: TokenizerConfig, files: Sequence[Path], text_key: str, sample: Sample) -> tuple[float, str]:
    """(how much of the text the tokenizer learns from, above 0 to 1; why not more)"""
    text = sample.text_bytes * sample.scale
    if not config.train or not text:
        return 1.0, ""
    most, why = learning_bytes(config.train, files, text_key, text)
    return min(1.0, most / text), why


def decisions(config: CorpusConfig, learns: tuple[float, str]) -> list[Decision]:
    """The choices of the stage, each with its reason."""
    dtype, why = _dtype(config.tokenizer)
    return [
        *_of_cleaning(config.clean),
        *_of_tokenizer(config.tokenizer, *learns),
        Decision("dtype", dtype, why),
        plain_specials(),
    ]


def _of_cleaning(clean: CleanConfig | None) -> list[Decision]:
    return [Decision("cleaning", clean.blocks, say("why_cleaning"))] if clean else []


def _of_cluster(job: Job[CorpusConfig]) -> list[Decision]:
    """Who cleans; tokenising is always done here."""
    if job.config.clean is None or job.cluster is None or job.cluster.launcher == "local":
        return []
    if elsewhere(job):
        return [Decision("cleaned by", job.cluster.launcher, say("why_cleaned_there"))]
    return [Decision("cleaned by", "local", say("why_cleaned_here"))]


def cleaning_bytes(clean: CleanConfig | None, documents: int, text_bytes: int) -> int:
    """Disk that the cleaning takes beside the tokens while it works: packed copies of the text, and hashes."""
    if clean is None:
        return 0
    near = clean.near_duplicates
    filters, duplicates = clean.length or clean.language or clean.repetition, clean.exact_duplicates or near
    copies = 2 if filters and duplicates else 1  # what the filters left, and what is left in the end
    hashes = near.buckets * (8 * near.hashes_per_bucket + 4) if near else 0
    return round(text_bytes * copies * PACKED_SHARE) + documents * (hashes + 14)


def _dtype(config: TokenizerConfig) -> tuple[str, str]:
    if config.train:
        return token_dtype(config.train.vocab_size)
    return "int32", say("why_dtype_open")


def _of_tokenizer(config: TokenizerConfig, share: float, why_share: str) -> list[Decision]:
    if config.train:
        part = say("all_text") if share == 1 else say("part_of_text", share=share)
        return [
            Decision("tokenizer", say("byte_level_bpe", size=config.train.vocab_size), say("why_byte_level")),
            Decision("tokenizer learns from", part, why_share),
        ]
    return [Decision("tokenizer", config.model, say("why_taken_over"))]
