"""A request of the OpenAI API becomes the asks that the engine answers, one for each answer."""

from collections.abc import Sequence
from dataclasses import replace

from easyllm.serve.contract import Ask, Grammar, Sampling, Whole
from easyllm.serve.desk import Desk
from easyllm.serve.honoured import require_able, warmth
from easyllm.serve.openai.bodies import CompletionBody, OpenAIBody
from easyllm.serve.refusals import invalid
from easyllm.serve.several import mean_logprob

NEW_TOKENS_OF_A_COMPLETION = 16
"""OpenAI's default: a completion has no turn end to stop at."""
SETTINGS = (
    "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty",
)  # fmt: skip
"""Called the same in a body and in ``Sampling``."""


def sampling_of(
    desk: Desk, body: OpenAIBody, likeliest: int, grammar: Grammar | None, names: dict[str, str]
) -> Sampling:
    """What the body says; where it says nothing, what the model's generation_config.json does.

    ``names``: what the route calls ``likeliest`` and ``grammar``.
    """
    given = {name: value for name in SETTINGS if (value := getattr(body, name)) is not None}
    wanted = replace(
        desk.model.default, **given, seed=body.seed, logit_bias=biases(desk, body), likeliest=likeliest, grammar=grammar
    )
    wanted = replace(wanted, temperature=warmth(wanted.temperature))
    return require_able(desk.model.voice.engine, wanted, names)


def biases(desk: Desk, body: OpenAIBody) -> tuple[tuple[int, float], ...]:
    known = len(desk.model.voice.tokenizer)
    found = tuple((int(key), value) for key, value in (body.logit_bias or {}).items() if value)
    wrong = next((number for number, _ in found if number >= known), None)
    if wrong is not None:
        told = f"`logit_bias` has the token id {wrong}; the vocabulary ends at {known - 1}"
        raise invalid(told, "logit_bias")
    return found


def several(ask: Ask, count: int) -> list[Ask]:
    """``count`` times the same, each with a seed of its own, so that they differ and can be had again."""
    seed = ask.sampling.seed
    if seed is None:
        return [ask] * count
    return [replace(ask, sampling=replace(ask.sampling, seed=seed + number)) for number in range(count)]


def made(body: CompletionBody) -> int:
    """How many answers are made for each prompt, of which ``n`` are told."""
    count = body.n or 1
    if body.best_of is None:
        return count
    if body.best_of < count:
        raise invalid(f"`best_of` {body.best_of} is less than `n` {count}", "best_of")
    if body.stream and body.best_of > count:
        raise invalid("`best_of` above `n` cannot be streamed: which is best is known at the end", "best_of")
    return body.best_of


def best(answers: Sequence[Whole], told: int) -> list[Whole]:
    """So many of one prompt's answers, the likeliest a token first; where none is left out, in their own order."""
    if told == len(answers):
        return list(answers)
    return sorted(answers, key=mean_logprob, reverse=True)[:told]


def require_own_ends(desk: Desk, body: CompletionBody) -> None:
    """An answer ends where the model's answers end; a request may say so, and may not say otherwise."""
    own = set(desk.model.ends)
    asked = set(body.stop_token_ids or ()) | (set() if body.ignore_eos else own)
    if asked != own:
        field = "stop_token_ids" if body.stop_token_ids else "ignore_eos"
        raise invalid(f"`{field}`: this server ends an answer at the token ids {sorted(own)} and no others", field)
