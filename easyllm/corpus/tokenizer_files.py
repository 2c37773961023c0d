"""The files of a Hugging Face tokenizer: which they are, what they say, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any, Literal

from easyllm.core.artifact import write_whole
from easyllm.core.errors import Problem, UserError, problem
from easyllm.corpus.vocabulary import END_OF_TEXT

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


Kind = Literal["fast", "sentencepiece", "gpt2"]
GPT2_CLASSES = (None, "GPT2Tokenizer", "GPT2TokenizerFast")


def kind_of(path: Path) -> Kind | None:
    """What ``path``, a directory or a SentencePiece file, holds; None for nothing that becomes a fast tokenizer."""
    if (path / "tokenizer.json").is_file():
        return "fast"
    if path.is_file() or (path / "tokenizer.model").is_file():
        return "sentencepiece"
    both = (path / "vocab.json").is_file() and (path / "merges.txt").is_file()
    # The same two files under another class are split by another pattern.
    return "gpt2" if both and _read(path / "tokenizer_config.json").get("tokenizer_class") in GPT2_CLASSES else None


def problems_of(path: Path) -> list[Problem]:
    """CORPUS-005 when ``path`` holds no tokenizer we can read, CORPUS-006 when it names no end-of-text token."""
    try:
        kind = kind_of(path)
        end = end_token(path)
    except UserError as error:
        return list(error.problems)
    if kind is None:
        what = "tokenizer.json is missing, and so are vocab.json and merges.txt of GPT-2 and tokenizer.model"
        return [unusable(path, what)]
    if end is None and kind == "fast":  # the others name it in their own way, which takes their libraries to read
        return [no_end(path)]
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


def write_config(
    directory: Path,
    end: str = END_OF_TEXT,
    begin: str | None = None,
    pad: str | None = None,
    unknown: str | None = None,
) -> None:
    """The tokenizer_config.json of a tokenizer that we trained or made out of other files.

    Written by hand: transformers 5 would name a class that version 4 and the servers built on it do not know.
    """
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": begin or end,
        "eos_token": end,
        **({"pad_token": pad} if pad else {}),
        **({"unk_token": unknown} if unknown else {}),
        "model_max_length": NO_LIMIT_TOKENS,
        "clean_up_tokenization_spaces": False,
    }
    write_whole(directory / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
