"""The files of a Hugging Face tokenizer: which they are, what they say, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

from easyllm.core.artifact import write_whole
from easyllm.core.errors import Problem, UserError, problem
from easyllm.corpus.vocabulary import END_OF_TEXT, PAD

FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "tokenizer.model", "chat_template.jinja",
)  # fmt: skip
"""Everything that stock transformers may want to read; the first two are enough for a fast tokenizer."""

NO_LIMIT_TOKENS = 1_000_000
"""A tokenizer without a model has no limit of its own. Left out, transformers says 1e30, which no integer holds."""


def home(directory: Path) -> Path:
    """Where the tokenizer lies in ``directory``: artifacts of corpus and pretrain keep it one level down."""
    inner = directory / "tokenizer"
    return inner if inner.is_dir() else directory


def problems_of(directory: Path) -> list[Problem]:
    """CORPUS-005 when ``directory`` holds no fast tokenizer, CORPUS-006 when it names no end-of-text token."""
    if not (directory / "tokenizer.json").is_file():
        return [unusable(directory, "tokenizer.json is missing")]
    try:
        end = end_token(directory)
    except UserError as error:
        return list(error.problems)
    if end is None:
        return [no_end(directory)]
    return []


def no_end(directory: Path) -> Problem:
    return _wrong("CORPUS-006", path=str(directory))


def end_token(directory: Path) -> str | None:
    """The token that ends a text, as the tokenizer's own files name it."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _read(directory / name).get("eos_token")
        if token:
            return str(token["content"] if isinstance(token, dict) else token)
    return None


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(unusable(path.parent, f"{path.name}: {error}")) from error
    return data if isinstance(data, dict) else {}


def unusable(path: Path, reason: str) -> Problem:
    return _wrong("CORPUS-005", path=str(path), reason=reason)


def _wrong(code: str, **params: Any) -> Problem:
    return problem(code, stage="corpus", key="corpus.tokenizer.model", **params)


def write_config(directory: Path) -> None:
    """The tokenizer_config.json of a tokenizer that we trained.

    Written by hand: transformers 5 would name a class that version 4 and the servers built on it do not know.
    """
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "model_max_length": NO_LIMIT_TOKENS,
        "clean_up_tokenization_spaces": False,
    }
    write_whole(directory / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
