"""One catalogue of texts per language: ``errors`` (what is wrong, the fix), ``texts`` (sentences), ``terms`` (names).

A sentence is made by ``say`` in the language of the run. A name that programs use too (a figure of a plan, a unit)
is English in the program and in its documents, and goes through ``term`` where a person reads it.
"""

import os
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "zh")
VARIABLES = ("EASYLLM_LANG", "LC_ALL", "LC_MESSAGES", "LANG")


def choose_language(language: str | None) -> None:
    """Set the language of this process and of those it starts; ``None`` follows the environment."""
    if language:
        os.environ[VARIABLES[0]] = language


def language() -> str:
    """``en`` or ``zh``: what ``--lang`` said, else EASYLLM_LANG, LC_ALL, LC_MESSAGES, LANG in that order."""
    for variable in VARIABLES:
        value = os.environ.get(variable)
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


@cache
def catalogue(code: str) -> dict[str, dict[str, Any]]:
    """The whole catalogue of language ``code``.

    {"errors": {CODE: {"what", "fix"}}, "texts": {name: text}, "terms": {English: name}}; English has no terms.
    """
    path = Path(__file__).with_name(f"messages.{code}.toml")
    return tomllib.loads(path.read_text("utf-8"))


def error_text(code: str, params: dict[str, Any]) -> tuple[str, str]:
    """(what is wrong, the fix) in the chosen language, with ``params`` filled in."""
    entry = catalogue(language())["errors"][code]
    return entry["what"].format(**params), entry["fix"].format(**params)


def say(name: str, /, **params: Any) -> str:
    """A text of the catalogue in the chosen language."""
    text: str = catalogue(language())["texts"][name]
    return text.format(**params)


def term(name: str) -> str:
    """What a person reads for an English name of the program; what is no name (a path, a key) stays as it is."""
    terms: dict[str, str] = catalogue(language()).get("terms", {})
    return terms.get(name, name)
