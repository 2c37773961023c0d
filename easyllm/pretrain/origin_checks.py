"""What must hold for a model to be trained on from: its shape, its files, its tokens. No torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.families.weights import weight_files
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.stage import Job
from easyllm.pretrain.batch import layout_of, nearest_legal
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.origin import Origin, origin_of
from easyllm.pretrain.vocabularies import difference, vocabulary


def check_begin(config: PretrainConfig) -> list[Problem]:
    """Either a new model or one to go on from, and of the keys only those that belong to it."""
    if (config.model is None) == (config.init is None):
        given = "model and init" if config.init else "neither model nor init"
        return [_wrong("PRETRAIN-090", "init" if config.init else "model", given=given)]
    if config.init:
        return []
    unused = [name for name in ("dropout", "new_rows") if getattr(config, name) is not None]
    return [_wrong("PRETRAIN-091", name, name=name) for name in unused]


def check_origin(job: Job[PretrainConfig], directory: Path | None = None) -> list[Problem]:
    """Nothing while the model is not here; the stage checks again once it is."""
    try:
        origin = origin_of(job, directory)
    except UserError as error:
        return list(error.problems)
    if origin is None:
        return []
    return [
        *_files(origin),
        *_shape(job.config, origin.architecture),
        *_tokens(job, origin),
    ]


def _wrong(code: str, key: str, **numbers: Any) -> Problem:
    return problem(code, stage="pretrain", key=f"pretrain.{key}", **numbers)


def _files(origin: Origin) -> Iterator[Problem]:
    found = weight_files(origin.directory)
    missing = [file.name for file in found if not file.is_file()]
    if not found or missing:
        yield _wrong("PRETRAIN-092", "init", path=str(origin.directory), missing=", ".join(missing) or "*.safetensors")


def _shape(config: PretrainConfig, a: Architecture) -> Iterator[Problem]:
    """What the recipe asks of a model whose shape is given."""
    if a.positions != "alibi" and config.sequence_tokens > a.max_positions:
        yield _wrong("PRETRAIN-093", "sequence_tokens", asked=config.sequence_tokens, largest=a.max_positions)
    tensor = config.parallel.tensor
    for name, size in {"heads": a.heads, "kv_heads": a.kv_heads, "ffn_hidden": a.ffn_hidden}.items():
        if size % tensor and not (name == "kv_heads" and a.kv_heads == a.heads):
            yield _wrong("PRETRAIN-094", "parallel.tensor", name=name, size=size, tensor=tensor)
    yield from check_stages(config, a.layers)
    if config.parallel.context > 1 and (a.positions == "alibi" or a.parallel_residual):
        yield _wrong("PRETRAIN-095", "parallel.context", family=a.family)


def check_stages(config: PretrainConfig, layers: int) -> Iterator[Problem]:
    """Every stage, real or virtual, holds as many layers as any other."""
    layout = layout_of(config)
    stages = layout.pipeline * layout.virtual_pipeline
    if layers % stages and layout.pipeline > 1:
        yield _wrong(
            "PRETRAIN-010", "parallel.pipeline", layers=layers, pipeline=layout.pipeline,
            virtual=layout.virtual_pipeline, stages=stages, choice=nearest_legal(layers, stages),
        )  # fmt: skip


def _tokens(job: Job[PretrainConfig], origin: Origin) -> Iterator[Problem]:
    """The corpus is in the model's own tokens, or in those and new ones behind them."""
    corpus = job.inputs.get("corpus")
    if corpus is None or corpus.manifest is None or corpus.path is None:
        return
    model, mine = vocabulary(origin.directory), vocabulary(corpus.path / "tokenizer")
    if model is None or mine is None:
        yield _wrong("PRETRAIN-096", "init", path=str(origin.directory if model is None else corpus.path))
        return
    found = difference(model, mine)
    if found is not None:
        yield _wrong(
            "PRETRAIN-097", "corpus", token=found.token, init=origin.ref,
            model="-" if found.model is None else found.model, corpus="-" if found.corpus is None else found.corpus,
        )  # fmt: skip
    elif max(model.values()) >= origin.rows:
        yield _wrong("PRETRAIN-098", "init", path=str(origin.directory), rows=origin.rows, last=max(model.values()))
