"""What must hold before a rank starts: Megatron itself hangs, asserts deep inside or trains something else."""

import importlib.util
from pathlib import Path
from typing import Any

from easyllm.core.errors import Problem, problem
from easyllm.core.stage import Job
from easyllm.pretrain import nodes
from easyllm.pretrain.architecture import OF_LLAMA_ONLY, ffn_hidden
from easyllm.pretrain.batch import batches_of_ramp, layout_of, nearest_legal
from easyllm.pretrain.config import Model, PretrainConfig
from easyllm.pretrain.data_checks import check_data
from easyllm.pretrain.deepspeed_checks import check_engine
from easyllm.pretrain.origin_checks import check_begin, check_origin, check_stages


def check(job: Job[PretrainConfig], directory: Path | None = None) -> list[Problem]:
    """Everything wrong with the section, and with the corpus and the model to go on from once they are there.

    ``directory`` is where that model lies, once the stage has brought it here.
    """
    config = job.config
    return [
        *check_engine(job),
        *(check_begin(config) or _of_model(job, directory)),
        *_virtual(config),
        *_sequence(config),
        *_batch(config),
        *_schedule(config),
        *check_data(job),
        *nodes.check(job),
        *_tracking(config),
    ]


def _of_model(job: Job[PretrainConfig], directory: Path | None) -> list[Problem]:
    """Of a new model, or of the one to go on from."""
    config, model = job.config, job.config.model
    if model is None:
        return check_origin(job, directory)
    found = [*_family(model), *_shape(config, model), *_parallel(config, model)]
    return [*found, *check_stages(config, model.layers)]


def _wrong(code: str, key: str, **numbers: Any) -> Problem:
    return problem(code, stage="pretrain", key=f"pretrain.{key}", **numbers)


def _tracking(config: PretrainConfig) -> list[Problem]:
    """Services whose package is not here: no rank should find that out."""
    return [
        _wrong("PRETRAIN-060", "track", service=service, package=service)
        for service in config.track
        if importlib.util.find_spec(service) is None
    ]


def _family(model: Model) -> list[Problem]:
    """Options that the chosen family has no place for would be read and ignored."""
    if model.family == "llama":
        return []
    given = [name for name in OF_LLAMA_ONLY if getattr(model, name) is not None]
    found = [_wrong("MODEL-005", f"model.{name}", family=model.family) for name in given]
    if model.tie_embeddings is False:
        found.append(_wrong("MODEL-006", "model.tie_embeddings"))
    return found


def _shape(config: PretrainConfig, model: Model) -> list[Problem]:
    found = []
    if model.hidden % model.heads:
        choice = nearest_legal(model.hidden, model.heads)
        found.append(_wrong("MODEL-001", "model.hidden", hidden=model.hidden, heads=model.heads, choice=choice))
    elif model.family == "llama" and model.hidden // model.heads % 2:
        width = model.hidden // model.heads
        found.append(_wrong("MODEL-007", "model.heads", width=width, hidden=model.hidden, heads=model.heads))
    if model.kv_heads and model.heads % model.kv_heads:
        legal = ", ".join(str(n) for n in range(1, model.heads + 1) if model.heads % n == 0)
        found.append(_wrong("MODEL-002", "model.kv_heads", heads=model.heads, kv_heads=model.kv_heads, legal=legal))
    if model.max_positions and config.sequence_tokens > model.max_positions:
        found.append(_wrong("MODEL-004", "sequence_tokens", asked=config.sequence_tokens, largest=model.max_positions))
    return found


def _parallel(config: PretrainConfig, model: Model) -> list[Problem]:
    tensor = config.parallel.tensor
    parts = {"heads": model.heads, "kv_heads": model.kv_heads or model.heads, "ffn_hidden": ffn_hidden(model)}
    if parts["kv_heads"] == parts["heads"]:
        del parts["kv_heads"]
    return [
        _wrong("MODEL-003", f"model.{name}", name=name, size=size, tensor=tensor)
        for name, size in parts.items()
        if size % tensor
    ]


def _virtual(config: PretrainConfig) -> list[Problem]:
    layout = layout_of(config)
    if layout.virtual_pipeline == 1 or layout.pipeline > 1:
        return []
    return [_wrong("PRETRAIN-011", "parallel.virtual_pipeline", virtual=layout.virtual_pipeline)]


def _sequence(config: PretrainConfig) -> list[Problem]:
    """The two ways to cut a sample: for norms and dropout (sequence), and everywhere (context)."""
    layout, found = layout_of(config), []
    if layout.context > 1 and (config.device == "cpu" or importlib.util.find_spec("transformer_engine") is None):
        found.append(_wrong("PRETRAIN-014", "parallel.context", context=layout.context))
    if layout.sequence and layout.tensor == 1:
        found.append(_wrong("PRETRAIN-012", "parallel.sequence"))
    # With context, every rank takes two pieces of a sample so that all have equal work.
    unit = (layout.tensor if layout.sequence else 1) * (2 * layout.context if layout.context > 1 else 1)
    if config.sequence_tokens % unit:
        choice = nearest_legal(config.sequence_tokens, unit)
        found.append(_wrong("PRETRAIN-013", "sequence_tokens", asked=config.sequence_tokens, unit=unit, choice=choice))
    return found


def _batch(config: PretrainConfig) -> list[Problem]:
    layout, batch = layout_of(config), config.batch
    data_parallel, left = divmod(config.ranks, layout.model_ranks)
    if left:
        choice = nearest_legal(config.ranks, layout.model_ranks)
        return [
            _wrong(
                "BATCH-001", "ranks", ranks=config.ranks, tensor=layout.tensor, pipeline=layout.pipeline,
                context=layout.context, unit=layout.model_ranks, choice=choice,
            )
        ]  # fmt: skip
    unit = batch.micro_samples * data_parallel
    if batch.global_samples % unit:
        return [
            _wrong(
                "BATCH-002", "batch.global_samples", asked=batch.global_samples, micro=batch.micro_samples,
                data_parallel=data_parallel, unit=unit, choice=nearest_legal(batch.global_samples, unit),
            )
        ]  # fmt: skip
    return [*_ramp(config, unit), *_interleaving(config, unit), *_validation_batch(config, unit)]


def _ramp(config: PretrainConfig, unit: int) -> list[Problem]:
    """Every step of the ramp up front: Megatron would find an odd one in the middle of the training."""
    batch, ramp = config.batch, config.batch.ramp
    if ramp is None:
        return []
    rise, left = divmod(batch.global_samples - ramp.from_samples, ramp.by_samples)
    if rise < 1 or left:
        return [
            _wrong(
                "BATCH-003", "batch.ramp", start=ramp.from_samples, by=ramp.by_samples, asked=batch.global_samples
            )
        ]  # fmt: skip
    odd = [size for size in batches_of_ramp(batch) if size % unit]
    return [_wrong("BATCH-004", "batch.ramp", sizes=", ".join(map(str, odd[:5])), unit=unit)] if odd else []


def _interleaving(config: PretrainConfig, unit: int) -> list[Problem]:
    """Interleaved stages take micro batches in groups as long as the pipeline."""
    layout = layout_of(config)
    if layout.virtual_pipeline == 1 or layout.pipeline == 1:
        return []
    validation = [config.validation.samples] if config.validation else []
    group = unit * layout.pipeline
    odd = [size for size in [*batches_of_ramp(config.batch), *validation] if size % group]
    if not odd:
        return []
    choice = nearest_legal(odd[0], group)
    return [_wrong("BATCH-005", "batch", asked=odd[0], pipeline=layout.pipeline, unit=unit, group=group, choice=choice)]


def _validation_batch(config: PretrainConfig, unit: int) -> list[Problem]:
    if config.validation is None or config.validation.samples % unit == 0:
        return []
    asked = config.validation.samples
    return [_wrong("BATCH-006", "validation.samples", asked=asked, unit=unit, choice=nearest_legal(asked, unit))]


def _schedule(config: PretrainConfig) -> list[Problem]:
    optimizer, found = config.optimizer, []
    if optimizer.warmup_steps >= config.steps:
        found.append(
            _wrong("PRETRAIN-003", "optimizer.warmup_steps", warmup=optimizer.warmup_steps, steps=config.steps)
        )
    if optimizer.min_learning_rate > optimizer.learning_rate:
        found.append(
            _wrong(
                "PRETRAIN-004", "optimizer.min_learning_rate",
                least=optimizer.min_learning_rate, most=optimizer.learning_rate,
            )
        )  # fmt: skip
    return [*found, *_warmup(config), *_decay(config)]


def _warmup(config: PretrainConfig) -> list[Problem]:
    """warmup_from is below the rate that warm-up rises to, and there is a warm-up."""
    optimizer = config.optimizer
    if optimizer.warmup_from is None or (optimizer.warmup_steps and optimizer.warmup_from <= optimizer.learning_rate):
        return []
    return [
        _wrong(
            "PRETRAIN-103", "optimizer.warmup_from", least=optimizer.warmup_from, most=optimizer.learning_rate,
            steps=optimizer.warmup_steps,
        )
    ]  # fmt: skip


def _decay(config: PretrainConfig) -> list[Problem]:
    """decay_steps is wsd's alone, and fits between the warm-up and the end."""
    optimizer = config.optimizer
    if optimizer.decay_steps is None:
        return []
    if optimizer.schedule != "wsd":
        return [_wrong("PRETRAIN-015", "optimizer.decay_steps", schedule=optimizer.schedule)]
    most = config.steps - optimizer.warmup_steps
    if optimizer.decay_steps <= most or most < 1:
        return []
    return [_wrong("PRETRAIN-016", "optimizer.decay_steps", asked=optimizer.decay_steps, most=most)]
