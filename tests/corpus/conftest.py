"""A corpus job as the pipeline makes it, run in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.digest import Digests
from easyllm.core.inputs import Place, resolve
from easyllm.core.stage import Job, Result
from easyllm.corpus.config import CorpusConfig
from easyllm.corpus.run import run

SENTENCES = (
    "The lighthouse keeper counts {n} ships before the fog comes in from the west.",
    "A list of {n} numbers is sorted in place, and the method returns None.",
    "If the file cannot be opened, an error with code {n} is raised and nothing is written.",
    "第 {n} 艘船在清晨离开港口，灯塔的光慢慢熄灭。",
    "Water boils at {n} degrees on this mountain; bring more firewood.",
)

JobMaker = Callable[..., Job[CorpusConfig]]


def write_prose(path: Path, documents: int = 200) -> Path:
    """``documents`` rows of prose in two languages, each different, as JSONL."""
    with path.open("w", encoding="utf-8") as file:
        for n in range(documents):
            text = " ".join(SENTENCES[(n + k) % len(SENTENCES)].format(n=n * 7 + k) for k in range(6))
            row = {"src": "test", "text": text, "type": "prose", "id": n, "title": f"page {n}"}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


@pytest.fixture
def prose(tmp_path: Path) -> Callable[..., Path]:
    """``prose("a.jsonl", 90)``: 90 documents in ``tmp_path / "a.jsonl"``; 200 where no number is given."""
    return lambda name, documents=200: write_prose(tmp_path / name, documents)


@pytest.fixture
def corpus_job(tmp_path: Path) -> JobMaker:
    """``corpus_job(out="a", input=[...], tokenizer={...})``: the job with its inputs resolved below ``tmp_path``."""

    def make(out: str = "out", **section: Any) -> Job[CorpusConfig]:
        config = CorpusConfig.model_validate(section)
        cache = tmp_path / "cache"
        place = Place(tmp_path, tmp_path / "runs", cache, ("corpus",), ("corpus",), Digests(cache / "digests.json"))
        directory = tmp_path / out
        directory.mkdir(exist_ok=True)
        inputs = resolve("corpus", config, place)
        return Job("corpus", config, inputs, 1, "test", tmp_path / "runs", cache, directory)

    return make


@pytest.fixture
def run_corpus(corpus_job: JobMaker) -> Callable[..., tuple[Path, Result]]:
    """(directory, result) of a corpus run with these settings."""

    def make(**section: Any) -> tuple[Path, Result]:
        job = corpus_job(**section)
        return job.out, run(job)

    return make
