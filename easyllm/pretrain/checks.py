"""What must hold before a rank starts: Megatron itself hangs, asserts deep inside or trains something else."""

from typing import Any

from easyllm.core.errors import Problem, problem
from easyllm.core.stage import Job
from easyllm.pretrain.architecture import OF_LLAMA_ONLY, ffn_hidden
from easyllm.pretrain.batch import nearest_legal
from easyllm.pretrain.config import PretrainConfig


def check(job: Job[PretrainConfig]) -> list[Problem]:
    """Everything wrong with the section, and with the corpus once that is there."""
    config = job.config
    return [
        *_engine(config),
        *_family(config),
        *_shape(config),
        *_parallel(config),
        *_batch(config),
        *_schedule(config),
        *_corpus(job),
    ]


def _wrong(code: str, key: str, **numbers: Any) -> Problem:
    return problem(code, stage="pretrain", key=f"pretrain.{key}", **numbers)


def _engine(config: PretrainConfig) -> list[Problem]:
    if config.engine == "megatron":
        return []
    return [_wrong("PRETRAIN-002", "engine", engine=config.engine)]


def _family(config: PretrainConfig) -> list[Problem]:
    """Options that the chosen family has no place for would be read and ignored."""
    if config.model.family == "llama":
        return []
    given = [name for name in OF_LLAMA_ONLY if getattr(config.model, name) is not None]
    found = [_wrong("MODEL-005", f"model.{name}", family=config.model.family) for name in given]
    if config.model.tie_embeddings is False:
        found.append(_wrong("MODEL-006", "model.tie_embeddings"))
    return found


def _shape(config: PretrainConfig) -> list[Problem]:
    model = config.model
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


def _parallel(config: PretrainConfig) -> list[Problem]:
    model, tensor = config.model, config.parallel.tensor
    parts = {"heads": model.heads, "kv_heads": model.kv_heads or model.heads, "ffn_hidden": ffn_hidden(model)}
    if parts["kv_heads"] == parts["heads"]:
        del parts["kv_heads"]
    return [
        _wrong("MODEL-003", f"model.{name}", name=name, size=size, tensor=tensor)
        for name, size in parts.items()
        if size % tensor
    ]


def _batch(config: PretrainConfig) -> list[Problem]:
    tensor, batch = config.parallel.tensor, config.batch
    data_parallel, left = divmod(config.ranks, tensor)
    if left:
        choice = nearest_legal(config.ranks, tensor)
        return [_wrong("BATCH-001", "ranks", ranks=config.ranks, tensor=tensor, choice=choice)]
    unit = batch.micro_samples * data_parallel
    if batch.global_samples % unit == 0:
        return []
    return [
        _wrong(
            "BATCH-002", "batch.global_samples", asked=batch.global_samples, micro=batch.micro_samples,
            data_parallel=data_parallel, unit=unit, choice=nearest_legal(batch.global_samples, unit),
        )
    ]  # fmt: skip


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
    return found


def _corpus(job: Job[PretrainConfig]) -> list[Problem]:
    """Too few tokens for one sample: Megatron gives no sample, or loops for ever over a split with no document."""
    manifest = job.inputs["corpus"].manifest if "corpus" in job.inputs else None
    if manifest is None:
        return []
    if "prefix" not in manifest.records["tokens"]:
        return [_wrong("CORPUS-014", "corpus", sources=len(manifest.records["tokens"]["sources"]))]
    asked, tokens = job.config.sequence_tokens, int(manifest.records["tokens"]["tokens"])
    if tokens > asked:  # one more than a sample: labels are the tokens moved by one
        return []
    return [_wrong("PRETRAIN-001", "sequence_tokens", tokens=tokens, asked=asked, largest=max(tokens - 1, 0))]
