"""What must hold before DeepSpeed starts: it takes a contradiction for the other value, or fails inside a rank."""

import importlib.util
import json
from typing import Any

from easyllm.core.errors import Problem, problem
from easyllm.core.stage import Job
from easyllm.pretrain.batch import BatchPlan, batch_plan
from easyllm.pretrain.config import DeepSpeed, PretrainConfig
from easyllm.pretrain.deepspeed_config import Json, conflicts, generated, read, unread
from easyllm.pretrain.precision import choose_dtype

ONE_RANK_ONLY = ("pipeline", "virtual_pipeline", "context")
"""Keys of ``parallel`` that DeepSpeed has no place for; so has it none for ``sequence``."""


def check_engine(job: Job[PretrainConfig]) -> list[Problem]:
    """For either engine: what the other's keys are doing here."""
    config = job.config
    if config.engine == "megatron":
        return [_wrong("PRETRAIN-073", "deepspeed")] if config.deepspeed != DeepSpeed() else []
    found = [*_missing(), *_layout(config), *_optimizer(config)]
    return found or _own_json(job)


def own_json(job: Job[PretrainConfig]) -> Json:
    """What stands in the user's own file; nothing where there is none. ValueError where that is no JSON object."""
    given = job.inputs.get("deepspeed.config")
    return read(given.files[0]) if given else {}


def _wrong(code: str, key: str, **numbers: Any) -> Problem:
    return problem(code, stage="pretrain", key=f"pretrain.{key}", **numbers)


def _missing() -> list[Problem]:
    return [] if importlib.util.find_spec("deepspeed") else [_wrong("PRETRAIN-070", "engine")]


def _layout(config: PretrainConfig) -> list[Problem]:
    asked = config.parallel.model_dump()
    given = [name for name in ONE_RANK_ONLY if asked[name] > 1] + (["sequence"] if config.parallel.sequence else [])
    return [_wrong("PRETRAIN-071", f"parallel.{name}", name=name, value=asked[name]) for name in given]


def _optimizer(config: PretrainConfig) -> list[Problem]:
    found, asked = [], config.deepspeed
    if config.optimizer.distributed:
        found.append(_wrong("PRETRAIN-072", "optimizer.distributed"))
    if asked.zero_stage == 0 and not _surely_fp32(config):
        found.append(_wrong("PRETRAIN-076", "deepspeed.zero_stage", precision=config.precision))
    if config.precision == "fp16" and config.device == "cpu":
        found.append(_wrong("PRETRAIN-080", "precision"))
    if asked.zero_stage == 0 and asked.offload_optimizer != "none":
        found.append(_wrong("PRETRAIN-077", "deepspeed.offload_optimizer", device=asked.offload_optimizer))
    return found


def _surely_fp32(config: PretrainConfig) -> bool:
    """On any machine that the recipe may run on."""
    return config.precision == "fp32" or (config.precision == "auto" and config.device == "cpu")


def _own_json(job: Job[PretrainConfig]) -> list[Problem]:
    config, key = job.config, "deepspeed.config"
    try:
        own = own_json(job)
    except (ValueError, OSError) as error:
        return [_wrong("PRETRAIN-075", key, path=job.inputs[key].files[0], why=error)]
    if not own or _arithmetic(config) is None:
        return []
    dtype, _ = choose_dtype(config.precision, "cpu" if config.device == "cpu" else None)
    made = generated(config, dtype)
    return [
        *(
            _wrong("PRETRAIN-074", key, name=name, theirs=json.dumps(theirs), ours=json.dumps(ours))
            for name, theirs, ours in conflicts(own, made)
        ),
        *(_wrong("PRETRAIN-081", key, name=name) for name in unread(own, made)),
    ]


def _arithmetic(config: PretrainConfig) -> BatchPlan | None:
    """None where the batch does not divide, which is told of elsewhere."""
    try:
        return batch_plan(config)
    except ValueError:
        return None
