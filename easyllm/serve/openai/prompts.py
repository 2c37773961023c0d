"""What a completion tells of its prompt: its text and tokens before the answer, or their scores beside it."""

from collections.abc import Callable, Sequence
from typing import Any

from easyllm.serve.contract import Scored
from easyllm.serve.openai.bodies import CompletionBody
from easyllm.serve.openai.shapes import CompletionLogprobs, PromptLogprob
from easyllm.serve.text import Detokenizer, decode
from easyllm.serve.token_texts import text_of

Namer = Callable[[int], str]


def namer(tokenizer: Any, body: CompletionBody) -> Namer:
    """How ``logprobs`` names a token: by its text, or as vLLM writes its id."""
    if body.return_tokens_as_token_ids:
        return lambda token: f"token_id:{token}"
    return lambda token: text_of(tokenizer, token)


def echo_of(tokenizer: Any, body: CompletionBody, ids: list[int], scored: Sequence[Scored]) -> dict[str, Any]:
    """The prompt as the beginning of an answer; ``scored`` where ``logprobs`` asks for it."""
    found: dict[str, Any] = {"text": decode(tokenizer, ids, with_special=True)}
    if body.logprobs is None:
        return found
    name = namer(tokenizer, body)
    offsets, at, reader = [], 0, Detokenizer(tokenizer, with_special=True)
    for token in ids:
        offsets.append(at)
        at += len(reader.add(token))
    tops = [
        None if value is None or best is None else named(name, [*best.items(), (token, value)])
        for token, (value, best) in zip(ids, scored, strict=True)
    ]
    logprobs: CompletionLogprobs = {
        "tokens": [name(token) for token in ids],
        "token_logprobs": [value for value, _ in scored],
        "top_logprobs": tops if body.logprobs else None,
        "text_offset": offsets,
    }
    return found | {"logprobs": logprobs}


def named(name: Namer, values: Sequence[tuple[int, float]]) -> dict[str, float]:
    """Log-probabilities by their token's name.

    Two ids may have one text (halves of a character): the first one, which is the likelier, counts.
    """
    found: dict[str, float] = {}
    for token, value in values:
        found.setdefault(name(token), value)
    return found


def prompt_logprobs(tokenizer: Any, ids: list[int], scored: Sequence[Scored]) -> list[dict[str, PromptLogprob] | None]:
    """vLLM's: at each place by id the token that stands there and the likeliest ones; None at the first."""
    return [
        None if value is None else _place(tokenizer, token, value, best or {})
        for token, (value, best) in zip(ids, scored, strict=True)
    ]


def _place(tokenizer: Any, token: int, value: float, best: dict[int, float]) -> dict[str, PromptLogprob]:
    ranks = {number: rank for rank, number in enumerate(best, start=1)}
    return {
        str(number): {"logprob": found, "rank": ranks.get(number), "decoded_token": text_of(tokenizer, number)}
        for number, found in ({token: value} | best).items()
    }
