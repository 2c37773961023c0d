"""What must hold before a checkpoint is read."""

from easyllm.convert.config import ConvertConfig
from easyllm.convert.families import FAMILIES
from easyllm.core.errors import Problem, problem
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.stage import Job


def check(job: Job[ConvertConfig]) -> list[Problem]:
    """The checkpoint must say what model it holds, and the model must be of a family with a mapping."""
    found = job.inputs.get("checkpoint")
    if found is None or found.manifest is None:
        return []
    reason = _unreadable(found.manifest.records)
    if reason is None:
        return []
    return [problem("CONVERT-001", stage=job.stage, key="convert.checkpoint", path=str(found.path), reason=reason)]


def _unreadable(records: dict[str, object]) -> str | None:
    record = records.get("architecture")
    if not isinstance(record, dict):
        return "records.architecture is missing"
    try:
        architecture = Architecture.from_record(record)
    except TypeError as error:
        return str(error).partition(" ")[2]
    if architecture.family not in FAMILIES:
        return f"family {architecture.family}, known are {', '.join(FAMILIES)}"
    return None
