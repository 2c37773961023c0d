"""Whether the corpus holds what is asked of it. Megatron makes no sample, or loops for ever, where it does not."""

from collections.abc import Iterator
from typing import Any

from easyllm.core.errors import Problem, problem
from easyllm.core.stage import Job
from easyllm.pretrain.blends import Blends, Source, blends_of, held_out_share, samples_of
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.split import Part, parts
from easyllm.pretrain.vocabularies import difference, vocabulary


def check_data(job: Job[PretrainConfig]) -> list[Problem]:
    """Nothing before the corpus has run."""
    blends, asked = blends_of(job), job.config.validation
    wrong = list(_replay(job))
    if blends is None or wrong:
        return wrong
    if asked is not None and asked.share is not None and blends.valid:
        documents = sum(source.documents for source in blends.valid)
        return [_wrong("PRETRAIN-050", "validation.share", share=asked.share, documents=documents)]
    share = held_out_share(asked, blends)
    if share is None:
        return [*_training(job.config, blends), *_own_parts(job.config, blends)]
    return [wrong for source in blends.train for wrong in _cut(job.config, blends, source, share)]


def _replay(job: Job[PretrainConfig]) -> Iterator[Problem]:
    """The corpus to mix in: another one, in the same tokens; and validation, which is on the corpus alone, has a part
    of its own."""
    replay, own, other = job.config.replay, job.inputs.get("corpus"), job.inputs.get("replay.corpus")
    if replay is None or own is None or own.manifest is None or other is None or other.manifest is None:
        return
    assert own.path is not None
    assert other.path is not None
    if other.digest == own.digest:
        yield _wrong("PRETRAIN-099", "replay.corpus", path=str(other.path))
        return
    theirs, mine = vocabulary(other.path / "tokenizer"), vocabulary(own.path / "tokenizer")
    found = difference(theirs, mine) if theirs and mine else None
    if found is not None:
        numbers = {"token": found.token, "theirs": found.model, "ours": found.corpus}
        yield _wrong("PRETRAIN-100", "replay.corpus", **{k: "-" if v is None else v for k, v in numbers.items()})
    has_part = any(row["valid"] for row in own.manifest.records["tokens"]["sources"])
    if job.config.validation is not None and not has_part:
        yield _wrong("PRETRAIN-101", "validation")


def _wrong(code: str, key: str, **numbers: Any) -> Problem:
    return problem(code, stage="pretrain", key=f"pretrain.{key}", **numbers)


def _training(config: PretrainConfig, blends: Blends) -> Iterator[Problem]:
    """Every source has a sample at least: labels are the tokens moved by one, so it takes one more than its length."""
    for source in blends.train:
        yield from _one_sample(config, source, source.tokens, "sequence_tokens")


def _one_sample(config: PretrainConfig, source: Source, tokens: int, key: str) -> Iterator[Problem]:
    asked = config.sequence_tokens
    if tokens > asked:
        return
    if source.name is None:
        yield _wrong("PRETRAIN-001", key, tokens=tokens, asked=asked, largest=max(tokens - 1, 0))
    else:
        yield _wrong("PRETRAIN-051", key, name=source.name, tokens=tokens, asked=asked, largest=max(tokens - 1, 0))


def _own_parts(config: PretrainConfig, blends: Blends) -> Iterator[Problem]:
    """The parts that the corpus holds back are read where validation is asked for."""
    if config.validation is None:
        return
    for sources in (blends.valid, blends.test, blends.replay):
        for source in sources:
            needed = samples_of(source, sources, config.validation.samples)
            yield from _enough(config, source, Part(source.documents, source.tokens), needed)


def _cut(config: PretrainConfig, blends: Blends, source: Source, share: float) -> Iterator[Problem]:
    """Both sides of the cut need documents, and the held-out one as many tokens as are asked of it."""
    train, held_out = parts(source.prefix, source.documents, share)
    if not train.documents or not held_out.documents:
        yield _wrong(
            "PRETRAIN-017", "validation.share", share=share, documents=source.documents, train=train.documents,
            held_out=held_out.documents, least=f"{1 / source.documents:.2g}",
        )  # fmt: skip
    elif train.tokens is not None and held_out.tokens is not None and config.validation is not None:
        yield from _one_sample(config, source, train.tokens, "validation.share")
        yield from _enough(config, source, held_out, samples_of(source, blends.train, config.validation.samples))


def _enough(config: PretrainConfig, source: Source, held_out: Part, needed: int) -> Iterator[Problem]:
    """Without a document read twice."""
    if config.validation is None or held_out.tokens is None:
        return
    has = max(held_out.tokens - 1, 0) // config.sequence_tokens
    if needed > has:
        asked = config.validation.samples
        yield _wrong(
            "PRETRAIN-018", "validation.samples", asked=needed, length=config.sequence_tokens,
            documents=held_out.documents, tokens=held_out.tokens, source=source.name or "corpus",
            most=asked * has // needed,
        )  # fmt: skip
