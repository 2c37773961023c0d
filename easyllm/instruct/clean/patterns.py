"""What filters look for, out of patterns.toml."""

import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import regex


@cache
def pattern(section: str, name: str) -> Any:
    """One pattern of all the rules of ``name`` there, without regard to case; ``^`` begins a line."""
    return _compiled(_said()[section][name])


@cache
def topics() -> dict[str, Any]:
    """One pattern for each of [topics], its rules in all languages together."""
    return {topic: _compiled([*rules["en"], *rules["zh"]]) for topic, rules in _said()["topics"].items()}


def _compiled(rules: Sequence[str]) -> Any:
    whole = "|".join(rules)
    for name, part in _said()["parts"].items():
        whole = whole.replace(f"<{name}>", part)
    return regex.compile(whole, regex.IGNORECASE | regex.MULTILINE)


@cache
def _said() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("patterns.toml").read_text("utf-8"))
