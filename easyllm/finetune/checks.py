"""What must hold before anything is trained. Pure, no torch."""

from importlib.util import find_spec
from typing import Any

from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.messages import say
from easyllm.core.stage import Job
from easyllm.core.tuning.layers import Header, covered_problems, read_header, save_problems, target_problems
from easyllm.core.tuning.methods import bitsandbytes_problems, idle_keys
from easyllm.finetune import nodes
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.order import rows_in_all
from easyllm.finetune.sources import data_files, data_rows, readable
from easyllm.finetune.split import split
from easyllm.finetune.template import template_problems


def check(job: Job[FinetuneConfig]) -> list[Problem]:
    """Every problem that can be known now; inputs that are not there yet are passed over."""
    problems = [*_method(job), *_engine(job), *_validation(job), *_rows(job), *template_problems(job)]
    try:
        header = read_header(job.inputs["base"].path) if job.ready("base") else None
    except UserError as error:
        return [*problems, *error.problems]
    return [*problems, *(_base(job, header) if header else [])]


def _method(job: Job[FinetuneConfig]) -> list[Problem]:
    return [*idle_keys(job.config, job.config.method, job.stage), *bitsandbytes_problems(job.config.method, job.stage)]


def _engine(job: Job[FinetuneConfig]) -> list[Problem]:
    """What the engine, the device and the number of ranks do not do together."""
    config, stage = job.config, job.stage
    problems = []
    if config.engine != "deepspeed" and "deepspeed" in config.model_fields_set:
        problems.append(problem("TRAIN-030", stage=stage, key=f"{stage}.deepspeed", engine=config.engine))
    if config.method in ("int8", "qlora") and config.engine != "ddp":
        what: dict[str, Any] = {"method": config.method, "engine": config.engine}
        problems.append(problem("TRAIN-035", stage=stage, key=f"{stage}.engine", **what))
    return [*problems, *_cpu(job), *nodes.check(job)]


def _cpu(job: Job[FinetuneConfig]) -> list[Problem]:
    config, stage = job.config, job.stage
    problems = []
    if config.device == "cpu" and config.precision == "fp16":
        problems.append(problem("TRAIN-033", stage=stage, key=f"{stage}.precision"))
    if config.device == "cpu" and config.kernels == "liger":
        problems.append(problem("TRAIN-034", stage=stage, key=f"{stage}.kernels", reason=say("why_no_gpu")))
    elif config.kernels == "liger" and find_spec("liger_kernel") is None:
        problems.append(problem("TRAIN-034", stage=stage, key=f"{stage}.kernels", reason=say("why_no_liger")))
    return problems


def _validation(job: Job[FinetuneConfig]) -> list[Problem]:
    config = job.config
    if config.validation_rows or not config.validation.model_fields_set:
        return []
    key = f"{job.stage}.validation.{min(config.validation.model_fields_set)}"
    return [problem("TRAIN-031", stage=job.stage, key=key)]


def _rows(job: Job[FinetuneConfig]) -> list[Problem]:
    if not readable(job):
        return []
    config = job.config
    try:
        train = split(list(data_rows(job)), config.validation_rows, job.seed, data_files(job)).train
    except UserError as error:
        return list(error.problems)
    if rows_in_all((row.share for row in train), config.epochs):
        return []
    figures: dict[str, Any] = {"rows": len(train), "epochs": config.epochs}
    return [problem("DATA-007", stage=job.stage, key="finetune.data", **figures)]


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
    problems = problems or covered_problems(lora.targets, lora.save_modules, header.linear, stage)
    bits = {"int8": 8, "qlora": 4}.get(config.method)
    stored = [name for name in lora.save_modules if any(f".{name}." in f".{path}." for path in header.linear)]
    if bits and stored:
        key = f"{stage}.lora.save_modules"
        problems.append(problem("TARGET-005", stage=stage, key=key, unknown=", ".join(stored), bits=bits))
    return problems
