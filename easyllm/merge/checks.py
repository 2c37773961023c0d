"""What must hold before a merge. Pure, no torch."""

from easyllm.core.errors import Problem, UserError
from easyllm.core.models import recorded_base
from easyllm.core.stage import Job
from easyllm.merge.config import MergeConfig


def check(job: Job[MergeConfig]) -> list[Problem]:
    """BASE-005 or BASE-006 when the adapter's base is gone or another."""
    manifest = job.inputs["adapter"].manifest
    if manifest is None:
        return []
    try:
        recorded_base(manifest.records["base"], job.cache_dir, job.stage, "merge.adapter")
    except UserError as error:
        return list(error.problems)
    return []
