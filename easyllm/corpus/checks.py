"""What must hold before text is tokenised. No torch, no tokenizers: files' heads and the tokenizer's own files."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from easyllm.core.errors import Problem, problem
from easyllm.core.stage import Job
from easyllm.corpus import tokenizer_files
from easyllm.corpus.clean.checks import check_clean
from easyllm.corpus.config import CorpusConfig
from easyllm.corpus.sample import look
from easyllm.corpus.sources import Source, files_of, sources_of
from easyllm.corpus.vocabulary import SMALLEST_VOCABULARY, SPECIAL_TOKENS
from easyllm.corpus.words import words_of, wrong_words


def check(job: Job[CorpusConfig]) -> list[Problem]:
    """Everything wrong with the section, the tokenizer it takes, and the heads of the files."""
    return [*_sources(job.config), *check_clean(job), *_tokenizer(job), *_files(job)]


def _sources(config: CorpusConfig) -> list[Problem]:
    if config.plain and config.weighted:
        return [problem("CORPUS-011", stage="corpus", key="corpus.input", plain=config.plain[0])]
    names = [entry.name for entry in config.weighted]
    return [
        problem("CORPUS-012", stage="corpus", key=f"corpus.input.{n}.name", name=name)
        for n, name in enumerate(names)
        if name in names[:n]
    ]


def _tokenizer(job: Job[CorpusConfig]) -> list[Problem]:
    config = job.config.tokenizer
    if (config.train is None) == (config.model is None):
        return [problem("CORPUS-008", stage="corpus", key="corpus.tokenizer", found=0 if config.train is None else 2)]
    if config.train and config.train.vocab_size < SMALLEST_VOCABULARY:
        return [
            problem(
                "CORPUS-004", stage="corpus", key="corpus.tokenizer.train.vocab_size",
                asked=config.train.vocab_size, special=len(SPECIAL_TOKENS), least=SMALLEST_VOCABULARY,
            )
        ]  # fmt: skip
    twice = [word for word, count in Counter(words_of(job)).items() if count > 1 or not word]
    if twice:
        return [wrong_words("CORPUS-020", twice)]
    model = job.inputs.get("tokenizer.model")
    if model and model.path and model.path.is_dir() and job.ready("tokenizer.model"):
        return tokenizer_files.problems_of(tokenizer_files.home(model.path))
    return []


def _files(job: Job[CorpusConfig]) -> list[Problem]:
    ready = all(job.ready(role) for role in job.inputs if role.startswith("input"))
    if not ready or (job.config.plain and job.config.weighted):
        return []
    files, _ = files_of(sources_of(job))
    sample = look(files, job.config.text_key)
    if sample.whole and not sample.documents and not sample.problems:
        return [no_documents(len(files), sample.empty)]
    return sample.problems


def no_documents(files: int, empty: int) -> Problem:
    """CORPUS-003: nothing to tokenise."""
    return problem("CORPUS-003", stage="corpus", key="corpus.input", files=files, empty=empty)


def empty_parts(sources: Sequence[Source], parts: Sequence[str], totals: Sequence[Any]) -> list[Problem]:
    """CORPUS-013 for each part of the split that a source left without a document: Megatron hangs on one."""
    return [
        problem("CORPUS-013", stage="corpus", key="corpus.split", part=part, name=source.name or "-",
                documents=sum(total.documents))
        for source, total in zip(sources, totals, strict=True)
        for part, documents in zip(parts, total.documents, strict=True)
        if not documents
    ]  # fmt: skip
