"""Two tokenizers side by side: does every token of the model have the same id in the corpus? No torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Difference:
    """The first token that the two do not agree about."""

    token: str
    model: int | None
    """Its id in the model's tokenizer; None: not there."""
    corpus: int | None


def vocabulary(directory: Path) -> dict[str, int] | None:
    """The id of every token, added ones included, from tokenizer.json; None where there is no such file."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        return None
    data: dict[str, Any] = json.loads(path.read_text("utf-8"))
    said = data["model"]["vocab"]
    # A Unigram model lists [token, score]; the others map tokens to ids.
    tokens = dict(said) if isinstance(said, dict) else {token: number for number, (token, _) in enumerate(said)}
    return tokens | {token["content"]: token["id"] for token in data.get("added_tokens", [])}


def difference(model: dict[str, int], corpus: dict[str, int]) -> Difference | None:
    """None where ``corpus`` has every token of ``model`` at its id, and new ones, if any, behind them."""
    for token, number in sorted(model.items(), key=lambda entry: entry[1]):
        if corpus.get(token) != number:
            return Difference(token, number, corpus.get(token))
    last = max(model.values())
    for token, number in sorted(new_tokens(model, corpus).items(), key=lambda entry: entry[1]):
        if number <= last:
            return Difference(token, None, number)
    return None


def new_tokens(model: dict[str, int], corpus: dict[str, int]) -> dict[str, int]:
    """Those that only ``corpus`` has."""
    return {token: number for token, number in corpus.items() if token not in model}
