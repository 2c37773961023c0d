"""The words that a recipe adds to a tokenizer. No tokenizers: ``check`` reads them too."""

import json
from collections.abc import Sequence

from easyllm.core.errors import Problem, problem
from easyllm.core.stage import Job
from easyllm.corpus.config import CorpusConfig

MOST_SHOWN = 10


def words_of(job: Job[CorpusConfig]) -> list[str]:
    """The words of the recipe, then those of its file, one a line."""
    listed, found = job.config.tokenizer.extend, job.inputs.get("tokenizer.extend_from")
    files = found.files if found else ()
    return [*listed, *(line for path in files for line in path.read_text("utf-8").splitlines() if line)]


def wrong_words(code: str, words: Sequence[str]) -> Problem:
    """CORPUS-020 or CORPUS-021, with the words."""
    shown = ", ".join(json.dumps(word, ensure_ascii=False) for word in words[:MOST_SHOWN])
    more = ", ..." if len(words) > MOST_SHOWN else ""
    return problem(code, stage="corpus", key="corpus.tokenizer.extend", count=len(words), tokens=shown + more)
