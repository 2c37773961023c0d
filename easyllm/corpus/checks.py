"""What must hold before the corpus is made. Reads the head of every file; the run itself reads all of it."""

from itertools import islice
from pathlib import Path

from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.stage import Job
from easyllm.corpus.config import CorpusConfig
from easyllm.corpus.documents import documents

HEAD_ROWS = 2000
HEAD_FILES = 50
BYTE_TOKENS = 257
"""256 bytes and the end-of-document token: the smallest vocabulary that knows every text."""


def check(job: Job[CorpusConfig]) -> list[Problem]:
    return [*_vocabulary(job), *_tokenizer_files(job), *_heads(job)]


def _vocabulary(job: Job[CorpusConfig]) -> list[Problem]:
    train = job.config.tokenizer.train
    if train is None or train.vocab_size >= BYTE_TOKENS:
        return []
    key = "corpus.tokenizer.train.vocab_size"
    return [problem("CORPUS-004", stage=job.stage, key=key, asked=train.vocab_size, least=BYTE_TOKENS)]


def _tokenizer_files(job: Job[CorpusConfig]) -> list[Problem]:
    source = job.inputs.get("tokenizer.model")
    if source is None or source.path is None or not source.path.is_dir():
        return []
    if source.manifest is None and not (source.path / "tokenizer.json").is_file():
        key = "corpus.tokenizer.model"
        return [problem("CORPUS-005", stage=job.stage, key=key, path=str(source.path), reason="no tokenizer.json")]
    return []


def _heads(job: Job[CorpusConfig]) -> list[Problem]:
    """The first fault in the head of each file; CORPUS-003 when no file has any text at all."""
    problems, texts, cut = [], 0, False
    files = job.inputs["input"].files
    for file in files[:HEAD_FILES]:
        try:
            read, found = _head(file, job)
        except UserError as error:
            problems += error.problems
            continue
        texts += found
        cut = cut or read == HEAD_ROWS
    if not problems and not texts and not cut and len(files) <= HEAD_FILES:
        problems.append(problem("CORPUS-003", stage=job.stage, key="corpus.input", files=len(files)))
    return problems


def _head(file: Path, job: Job[CorpusConfig]) -> tuple[int, int]:
    """(documents read, those with text) of the head of one file."""
    read = found = 0
    for document in islice(documents(file, job.config.text_key, job.stage), HEAD_ROWS):
        read += 1
        found += bool(document.text.strip())
    return read, found
