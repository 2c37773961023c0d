"""What runs here, for GET /info: the engine, since when, and what the weights are made of. No path of this machine."""

from time import perf_counter
from typing import Any

from easyllm.core.artifact import Manifest
from easyllm.core.digest import of_value
from easyllm.serve.desk import Desk
from easyllm.serve.tgi.shapes import Deployment


def deployment(desk: Desk) -> Deployment:
    """Our own additions to what text-generation-inference tells."""
    manifest = desk.about.manifest
    return {
        "engine": desk.about.engine,
        "uptime_seconds": round(perf_counter() - desk.started, 3),
        "max_queued_requests": desk.about.limits.queued_requests,
        "lineage_digest": lineage_digest(manifest) if manifest else None,
        "manifest": told(manifest) if manifest else None,
    }


def lineage_digest(manifest: Manifest) -> str:
    """Equal for equal weights made by equal settings from equal inputs, and for nothing else."""
    return of_value({"made": manifest.digest, "by": manifest.fingerprint, "from": inputs(manifest)})


def inputs(manifest: Manifest) -> dict[str, str]:
    """The digest of each input by its role."""
    return {role: str(entry.get("digest")) for role, entry in manifest.inputs.items()}


def told(manifest: Manifest) -> dict[str, Any]:
    """The manifest without its settings, files and paths, which are nobody's business on a network."""
    kept = ("kind", "stage", "recipe", "digest", "fingerprint", "seed", "versions", "started", "ended")
    template = manifest.records.get("template") or {}
    return {name: getattr(manifest, name) for name in kept} | {
        "inputs": inputs(manifest),
        "template_hash": template.get("hash"),
    }
