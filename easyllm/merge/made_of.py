"""What the merged weights are made of, for the manifest and for ``easyllm lineage``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from easyllm.merge.sources import Source


def made_of(found: Sequence[Source], directory: Path) -> dict[str, Any]:
    """{"base": {ref, digest, licence}, "adapters": [{ref, digest, weight, method, quantisation, data}]}."""
    base = found[0].records["base"]
    return {
        "base": {"ref": base["ref"], "digest": base["digest"], "licence": _licence(directory)},
        "adapters": [_of(source) for source in found],
    }


def _of(source: Source) -> dict[str, Any]:
    assert source.input.manifest is not None
    inputs = source.input.manifest.inputs
    return {
        "ref": source.input.ref,
        "digest": source.input.manifest.digest,
        "weight": source.weight,
        "method": source.records.get("method"),
        "quantisation": source.records.get("quantisation"),
        "data": {role: entry["digest"] for role, entry in inputs.items() if role != "base"},
    }


def _licence(directory: Path) -> str | None:
    """What the model card beside the base says in its head; None where there is none."""
    card = directory / "README.md"
    text = card.read_text("utf-8", "replace") if card.is_file() else ""
    if not text.startswith("---\n"):
        return None
    try:
        head = yaml.safe_load(text[4:].partition("\n---")[0])
    except yaml.YAMLError:
        return None
    found = head.get("license") if isinstance(head, dict) else None
    return found if isinstance(found, str) else None
