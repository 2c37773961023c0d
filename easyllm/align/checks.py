"""What must hold before anything is trained. Pure, no torch."""

from easyllm.align.config import AlignConfig
from easyllm.align.preferences import read_preferences, split
from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.stage import Job
from easyllm.core.tuning.layers import read_header, target_problems

CHECKED_BYTES = 20_000_000
"""Data up to this size is read whole by a check; more is left to the run, which reads every row anyway."""


def check(job: Job[AlignConfig]) -> list[Problem]:
    """Every problem that can be known now; inputs that are not there yet are passed over."""
    problems = [*_batch(job), *_idle_keys(job), *_rows(job)]
    try:
        return [*problems, *_base(job)]
    except UserError as error:
        return [*problems, *error.problems]


def _batch(job: Job[AlignConfig]) -> list[Problem]:
    asked, micro = job.config.batch.global_samples, job.config.batch.micro_samples
    found = []
    if asked % micro:
        below = asked - asked % micro
        choice = f"{below}, {below + micro}" if below else str(micro)
        key = f"{job.stage}.batch.global_samples"
        found.append(problem("ALIGN-009", stage=job.stage, key=key, asked=asked, micro=micro, choice=choice))
    if job.config.objective == "kto" and micro < 2:
        found.append(problem("ALIGN-010", stage=job.stage, key=f"{job.stage}.batch.micro_samples", micro=micro))
    return found


def _idle_keys(job: Job[AlignConfig]) -> list[Problem]:
    """ALIGN-011 for what was written and has no effect with what else was asked."""
    config = job.config
    given, why = config.model_fields_set, f"method={config.method}"
    idle = [("lora", why)] if config.method == "full" else []
    if config.method in ("full", "lora"):
        idle.append(("quantisation", why))
    if config.method == "int8":
        idle += [(f"quantisation.{name}", why) for name in ("four_bit_type", "double")]
    if config.method == "qlora":
        idle.append(("quantisation.int8_threshold", why))
    base = job.inputs["base"].manifest
    if base and base.kind == "adapter":
        why = "base=" + job.inputs["base"].ref
        idle = [(name, why) for name in ("lora", "quantisation")]
        if "method" in given and config.method != base.records.get("method", "lora"):
            idle.append(("method", why))
    place = {"stage": job.stage}
    return [problem("ALIGN-011", key=f"{job.stage}.{name}", **place, why=why) for name, why in idle if _set(config, name)]


def _set(config: AlignConfig, name: str) -> bool:
    outer, _, inner = name.partition(".")
    if outer not in config.model_fields_set:
        return False
    return not inner or inner in getattr(config, outer).model_fields_set


def _rows(job: Job[AlignConfig]) -> list[Problem]:
    if not readable(job):
        return []
    try:
        rows = list(read_preferences(job.inputs["data"].files, job.config.objective, job.stage))
        split(rows, job.config.validation_rows, job.seed, job.stage)
    except UserError as error:
        return list(error.problems)
    return []


def readable(job: Job[AlignConfig]) -> bool:
    """Whether the data is there, and small enough to be read by a check."""
    return job.ready("data") and sum(file.stat().st_size for file in job.inputs["data"].files) <= CHECKED_BYTES


def _base(job: Job[AlignConfig]) -> list[Problem]:
    base, config = job.inputs["base"], job.config
    header = read_header(base.path) if job.ready("base") and not _is_adapter(job) else None
    if header is None:
        return []
    problems: list[Problem] = []
    limit = header.context_tokens
    if limit is not None and config.sequence_tokens > limit:
        key = f"{job.stage}.sequence_tokens"
        problems.append(problem("TRAIN-003", stage=job.stage, key=key, asked=config.sequence_tokens, limit=limit))
    if config.lora.targets != "auto" and header.known_names:
        problems += target_problems(config.lora.targets, header.linear)
    return problems


def _is_adapter(job: Job[AlignConfig]) -> bool:
    manifest = job.inputs["base"].manifest
    return manifest is not None and manifest.kind == "adapter"
