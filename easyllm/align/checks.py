"""What must hold before anything is trained. Pure, no torch."""

from pathlib import Path

from easyllm.align.config import AlignConfig
from easyllm.align.preferences import read_preferences, split
from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.rows import few
from easyllm.core.stage import Job
from easyllm.core.tuning.layers import Header, covered_problems, read_header, save_problems, target_problems
from easyllm.core.tuning.methods import bitsandbytes_problems, idle_keys


def check(job: Job[AlignConfig]) -> list[Problem]:
    """Every problem that can be known now; inputs that are not there yet are passed over."""
    problems = [*_batch(job), *_method(job), *_rows(job)]
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


def _method(job: Job[AlignConfig]) -> list[Problem]:
    """What was written and has no effect: of the method (TRAIN-011), or of a base that is an adapter (ALIGN-011)."""
    config, base = job.config, job.inputs["base"]
    if not is_adapter(job):
        return [*idle_keys(config, config.method, job.stage), *bitsandbytes_problems(config.method, job.stage)]
    assert base.manifest is not None
    given, made_by = config.model_fields_set, base.manifest.records.get("method", "lora")
    idle: list[str] = [name for name in ("lora", "quantisation") if name in given]
    idle += ["method"] if "method" in given and config.method != made_by else []
    place = {"stage": job.stage, "base": base.ref, "method": made_by}
    problems = [problem("ALIGN-011", key=f"{job.stage}.{name}", **place) for name in idle]
    return [*problems, *bitsandbytes_problems(made_by, job.stage)]


def is_adapter(job: Job[AlignConfig]) -> bool:
    """Whether the base is an adapter that is trained on."""
    manifest = job.inputs["base"].manifest
    return manifest is not None and manifest.kind == "adapter"


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
    return job.ready("data") and few(job.inputs["data"].files)


def _base(job: Job[AlignConfig]) -> list[Problem]:
    config, header = job.config, _header(job)
    if header is None:
        return []
    problems: list[Problem] = []
    limit = header.context_tokens
    if limit is not None and config.sequence_tokens > limit:
        key = f"{job.stage}.sequence_tokens"
        problems.append(problem("TRAIN-003", stage=job.stage, key=key, asked=config.sequence_tokens, limit=limit))
    if is_adapter(job) or config.method == "full" or not header.known_names:
        return problems
    if config.lora.targets != "auto":
        problems += target_problems(config.lora.targets, header.linear, job.stage)
    if config.lora.save_modules != "auto":
        # A file lacks the head that is its embedding; whether there is one is found by the run.
        saved = config.lora.save_modules
        problems += save_problems(saved, [*header.modules, "lm_head"], job.stage)
        problems = problems or covered_problems(config.lora.targets, saved, header.linear, job.stage)
    return problems


def _header(job: Job[AlignConfig]) -> Header | None:
    """Of the base, or of the one below an adapter; None where it cannot be read yet."""
    base = job.inputs["base"]
    if not job.ready("base"):
        return None
    if not is_adapter(job):
        return read_header(base.path)
    assert base.manifest is not None
    below = base.manifest.records["base"]["path"]
    return read_header(Path(below)) if below else None
