"""What an export will do, in numbers. Pure, no torch."""

from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.families.weights import weight_files
from easyllm.core.models import present_model
from easyllm.core.stage import Job, Plan
from easyllm.export.config import SHARE, ExportConfig
from easyllm.export.licence import licence_of
from easyllm.export.proving import v4_decision


def plan(job: Job[ExportConfig]) -> Plan:
    """Disk, memory and what proves each form."""
    config = job.config
    figures: dict[str, Any] = {"model": job.inputs["model"].ref}
    figures |= {"layouts": ", ".join(config.layouts) or "-", "gguf files": ", ".join(config.gguf) or "-"}
    decisions = [v4_decision(job)] if config.layouts else []
    licence = licence_of(job)
    decisions += [Decision("license", licence[0], licence[1])] if licence else []
    weights, values = _sizes(job)
    kinds = {*config.gguf} | ({"f16"} if "q4_k_m" in config.gguf else set())
    disk = weights + int(sum(SHARE[kind] * 2 * values for kind in kinds))  # linked or, on another disk, copied
    return Plan(figures, decisions=decisions, disk_bytes=disk, memory_bytes=values * 4)


def _sizes(job: Job[ExportConfig]) -> tuple[int, int]:
    """Bytes of the weights, and how many values they are at most; 0 where they are not there yet."""
    directory = present_model(job.inputs["model"], job.cache_dir) if job.ready("model") else None
    if directory is None or not directory.is_dir():
        return 0, 0
    files = weight_files(directory)
    stored = sum(file.stat().st_size for file in files)
    return stored, stored // 2
