"""What a merge will do, in numbers. Pure, no torch."""

from pathlib import Path
from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.messages import say
from easyllm.core.stage import Job, Plan
from easyllm.core.tuning.layers import read_header
from easyllm.merge.config import MergeConfig
from easyllm.merge.sources import sources

BYTES_PER_FP32 = 4


def plan(job: Job[MergeConfig]) -> Plan:
    """Base, disk and memory where the adapter exists; its name otherwise."""
    found = sources(job)
    several = job.config.adapters
    names = " + ".join(f"{s.weight:g} x {s.input.ref}" for s in found) if several else found[0].input.ref
    figures: dict[str, Any] = {"adapters" if several else "adapter": names}
    decisions = [Decision("compute", "float32", say("why_merge_fp32"))]
    if any(source.input.manifest is None for source in found):
        return Plan(figures, decisions=decisions)
    base = found[0].records["base"]
    figures["base"] = base["ref"]
    path = Path(base["path"]) if base["path"] else None
    header = read_header(path)
    if header is None or path is None:
        return Plan(figures, decisions=decisions)
    whole = header.parameters * BYTES_PER_FP32
    stored = sum(file.stat().st_size for file in path.glob("*.safetensors")) if path.is_dir() else whole
    largest = max(header.size(name) for name in header.shapes) * BYTES_PER_FP32
    writing = min(stored, int(job.config.shard_gb * 1e9)) + 3 * largest
    # The weights in the base's precision, and in fp32 until both have been compared. Then one model at a time.
    return Plan(
        figures,
        decisions=[*decisions, Decision("parity", "float32", say("why_merge_whole"))],
        disk_bytes=stored + (whole if stored < whole else 0),
        memory_bytes=max(writing, whole),
    )
