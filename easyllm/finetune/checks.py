"""What must hold before anything is trained. Pure, no torch."""

from typing import Any

from easyllm.core.conversations import read_conversations
from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.stage import Job
from easyllm.core.tuning.layers import Header, read_header, save_problems, target_problems
from easyllm.core.tuning.methods import bitsandbytes_problems, idle_keys
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.split import split

CHECKED_BYTES = 20_000_000
"""Data up to this size is read whole by a check; more is left to the run, which reads every row anyway."""


def check(job: Job[FinetuneConfig]) -> list[Problem]:
    """Every problem that can be known now; inputs that are not there yet are passed over."""
    problems = [*_method(job), *_batch(job), *_rows(job)]
    try:
        header = read_header(job.inputs["base"].path) if job.ready("base") else None
    except UserError as error:
        return [*problems, *error.problems]
    return [*problems, *(_base(job, header) if header else [])]


def _method(job: Job[FinetuneConfig]) -> list[Problem]:
    return [*idle_keys(job.config, job.config.method, job.stage), *bitsandbytes_problems(job.config.method, job.stage)]


def _batch(job: Job[FinetuneConfig]) -> list[Problem]:
    asked, micro = job.config.batch.global_samples, job.config.batch.micro_samples
    if asked % micro == 0:
        return []
    below = asked - asked % micro
    choice = f"{below}, {below + micro}" if below else str(micro)
    key = "finetune.batch.global_samples"
    return [problem("TRAIN-001", stage=job.stage, key=key, asked=asked, micro=micro, choice=choice)]


def _rows(job: Job[FinetuneConfig]) -> list[Problem]:
    files = job.inputs["data"].files
    if not job.ready("data") or sum(file.stat().st_size for file in files) > CHECKED_BYTES:
        return []
    try:
        split(list(read_conversations(files, job.stage)), job.config.validation_rows, job.seed, files)
    except UserError as error:
        return list(error.problems)
    return []


def _base(job: Job[FinetuneConfig], header: Header) -> list[Problem]:
    problems: list[Problem] = []
    config, limit = job.config, header.context_tokens
    if limit is not None and config.sequence_tokens > limit:
        place: dict[str, Any] = {"stage": job.stage, "key": "finetune.sequence_tokens"}
        problems.append(problem("TRAIN-003", **place, asked=config.sequence_tokens, limit=limit))
    if config.method == "full" or not header.known_names:
        return problems
    return [*problems, *_layers(config, header, job.stage)]


def _layers(config: FinetuneConfig, header: Header, stage: str) -> list[Problem]:
    """Of names only: a layer that the file lacks (a head that is the embedding) is found by the run."""
    lora, problems = config.lora, []
    if lora.targets != "auto":
        problems += target_problems(lora.targets, header.linear, stage)
    if lora.save_modules == "auto":
        return problems
    problems += save_problems(lora.save_modules, [*header.modules, "lm_head"], stage)
    bits = {"int8": 8, "qlora": 4}.get(config.method)
    stored = [name for name in lora.save_modules if any(f".{name}." in f".{path}." for path in header.linear)]
    if bits and stored:
        key = f"{stage}.lora.save_modules"
        problems.append(problem("TARGET-005", stage=stage, key=key, unknown=", ".join(stored), bits=bits))
    return problems
