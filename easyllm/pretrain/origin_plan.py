"""What a plan and a manifest say of a model that goes on: where it comes from, and what is added to it."""

from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.messages import say
from easyllm.core.stage import Job
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.new_rows import choose, count_of
from easyllm.pretrain.origin import Origin


def origin_decisions(job: Job[PretrainConfig], origin: Origin | None) -> list[Decision]:
    """Nothing where a new model is trained."""
    if job.config.init is None:
        return []
    if origin is None:
        return [Decision("weights", job.config.init, say("why_weights_later"))]
    weights = Decision("weights", origin.ref, say("why_weights", family=origin.architecture.family, rows=origin.rows))
    new = count_of(job, origin)
    if new is None:
        return [weights, Decision("new rows", say("after_corpus"), say("why_rows_later"))]
    how = choose(job)
    if not new:
        return [weights, Decision("new rows", 0, say("why_no_rows_added"))]
    return [weights, Decision("new rows", new, say(f"why_rows_{how}"))]


def origin_record(job: Job[PretrainConfig], origin: Origin) -> dict[str, Any]:
    """For the manifest: the model, and what its vocabulary has become."""
    new = count_of(job, origin) or 0
    return {
        "ref": origin.ref,
        "digest": job.inputs["init"].digest,
        "family": origin.architecture.family,
        "rows": origin.rows,
        "new_tokens": new,
        "new_rows": choose(job) if new else None,
    }
