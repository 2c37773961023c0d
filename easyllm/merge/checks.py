"""What must hold before a merge. Pure, no torch."""

from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.families.weights import weight_files
from easyllm.core.models import present_model, recorded_base
from easyllm.core.stage import Job
from easyllm.merge.config import MergeConfig
from easyllm.merge.sources import source_problems, sources


def check(job: Job[MergeConfig]) -> list[Problem]:
    """MERGE-010 to MERGE-014, and BASE-005 or BASE-006 when the adapters' base is gone or another."""
    if (job.config.adapter is None) != bool(job.config.adapters):
        return [problem("MERGE-013", stage="merge", key="merge.adapters")]
    found = sources(job)
    problems = source_problems(found)
    if problems or found[0].input.manifest is None:
        return problems
    try:
        base = recorded_base(found[0].records["base"], job.cache_dir, job.stage, found[0].key)
    except UserError as error:
        return list(error.problems)
    path = present_model(base, job.cache_dir)
    if path is not None and path.is_dir() and not weight_files(path):
        return [problem("MERGE-014", stage="merge", key=found[0].key, path=str(path))]
    return []
