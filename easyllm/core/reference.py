"""Help for recipe keys, read from the config classes: nobody writes it twice."""

from typing import Any

from easyllm.core.recipe import section_of
from easyllm.core.section import Section


def key_rows(model: type[Section], stage: str) -> list[tuple[str, str]]:
    """(dotted key, meaning with default) of every key of ``stage``'s section, in the order it is written."""
    section = section_of(model.model_fields[stage].annotation)
    return _rows(section, stage) if section else []


def _rows(section: type[Section], prefix: str) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, info in section.model_fields.items():
        inner = section_of(info.annotation)
        rows.append((f"{prefix}.{name}", _meaning(info, inner is not None)))
        if inner:
            rows += _rows(inner, f"{prefix}.{name}")
    return rows


def _meaning(info: Any, is_section: bool) -> str:
    text = " ".join((info.description or "").split())
    if info.is_required():
        return f"{text} Required."
    if is_section or info.default is None:
        return text
    return f"{text} Default: {info.get_default(call_default_factory=True)}."
