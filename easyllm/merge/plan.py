"""What a merge will do, in numbers. Pure, no torch."""

from pathlib import Path
from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.messages import say
from easyllm.core.stage import Job, Plan
from easyllm.merge.config import MergeConfig

BYTES_PER_FP32 = 4


def plan(job: Job[MergeConfig]) -> Plan:
    """Base, disk and memory where the adapter exists; its name otherwise."""
    adapter = job.inputs["adapter"]
    decisions = [Decision("compute", "float32", say("why_merge_fp32"))]
    if adapter.manifest is None:
        return Plan({"adapter": adapter.ref}, decisions=decisions)
    base = adapter.manifest.records["base"]
    figures: dict[str, Any] = {"adapter": adapter.ref, "base": base["ref"]}
    weights = _weight_bytes(base["path"])
    return Plan(figures, decisions=decisions, disk_bytes=weights, memory_bytes=weights * 2)


def _weight_bytes(path: str | None) -> int:
    """Bytes of the base's weights as fp32 safetensors would hold them; 0 where they are not on this disk yet."""
    if path is None:
        return 0
    place = Path(path)
    if place.suffix == ".gguf" and place.is_file():
        return place.stat().st_size * 32 // 4  # a 4-bit file at most grows by that much
    return sum(file.stat().st_size for file in place.glob("*.safetensors"))
