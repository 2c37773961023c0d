"""From raw text to an artifact: the manifests, followed back through their inputs."""

from pathlib import Path
from typing import Any

from easyllm.core.artifact import read_manifest
from easyllm.core.errors import refuse
from easyllm.core.messages import say


def trace(path: Path) -> dict[str, Any]:
    """{"stage", "kind", "path", "digest", "ended", "versions", "inputs": {role: {"ref", "digest", "changed", "from"}}}.

    ``changed`` is true where the input's directory holds other content now than when it was used.
    """
    manifest = read_manifest(path)
    if manifest is None:
        raise refuse("LINEAGE-001", path=str(path))
    inputs: dict[str, Any] = {}
    for role, entry in manifest.inputs.items():
        before = Path(entry["path"]) if entry["path"] else None
        upstream = read_manifest(before) if before and before.is_dir() else None
        same = upstream is not None and upstream.digest == entry["digest"]
        inputs[role] = {
            "ref": entry["ref"],
            "path": entry["path"],
            "digest": entry["digest"],
            "changed": upstream is not None and not same,
            "from": trace(before) if before and same else None,
        }
    return {
        "stage": manifest.stage,
        "kind": manifest.kind,
        "path": str(path),
        "digest": manifest.digest,
        "ended": manifest.ended,
        "versions": manifest.versions,
        "inputs": inputs,
        **({"made_of": manifest.records["made_of"]} if "made_of" in manifest.records else {}),
    }


def text(tree: dict[str, Any], indent: str = "") -> str:
    """The tree as lines, newest first."""
    lines = f"{indent}{tree['stage']} ({tree['kind']})  {tree['path']}  {tree['digest'][:12]}  {tree['ended']}\n"
    lines += _made_of(tree.get("made_of"), indent + "  ")
    for role, entry in tree["inputs"].items():
        mark = "  " + say("changed_since") if entry["changed"] else ""
        lines += f"{indent}  {role}: {entry['ref']}  {(entry['digest'] or '')[:12]}{mark}\n"
        if entry["from"]:
            lines += text(entry["from"], indent + "    ")
    return lines


def _made_of(found: dict[str, Any] | None, indent: str) -> str:
    """What merged weights are made of, one line an adapter."""
    if found is None:
        return ""
    base = found["base"]
    licence = f"  {base['licence']}" if base["licence"] else ""
    lines = f"{indent}{say('made_of')}: {base['ref']}  {base['digest'][:12]}{licence}\n"
    for entry in found["adapters"]:
        how = f" ({entry['method']})" if entry["method"] else ""
        lines += f"{indent}  + {entry['weight']:g} x {entry['ref']}{how}  {entry['digest'][:12]}\n"
    return lines
