"""How a server shows that it fits before anybody is answered by it: its model, its limits, its words."""

from contextlib import aclosing
from typing import Any

from easyllm.core.errors import refuse
from easyllm.core.messages import say
from easyllm.serve.contract import Sampling
from easyllm.serve.engines.upstream import Upstream
from easyllm.serve.engines.wire import Unfit, request_body
from easyllm.serve.limits import Limits
from easyllm.serve.text import UNFINISHED, decode
from easyllm.serve.words import WARM_UP_TOKENS


async def introduce(
    upstream: Upstream, name: str, tokenizer: Any, ends: list[int], limits: Limits, prompts: list[list[int]]
) -> str:
    """The model id to ask for, once short greedy answers have come back in the words of our own tokenizer.

    Raises EngineFailed where the server is not ready, UserError SERVE-034 where it is not one we can use,
    SERVE-035 where its model has another vocabulary, and SERVE-036 where it takes fewer tokens than we promise.
    """
    try:
        model = choose_model(upstream.models(), name, limits)
        for ids in prompts:
            found, text, counted = await answer(upstream, request_body(model, ids, WARM_UP_TOKENS, Sampling(), ends))
            if counted is not None and counted != len(ids):
                raise Unfit(say("unfit_count", counted=counted, sent=len(ids)))
            ours = decode(tokenizer, found[:-1] if found and found[-1] in ends else found)
            if letters(ours) != letters(text):
                raise refuse("SERVE-035", stage="serve", key="serve.remote", url=upstream.url, theirs=text, ours=ours)
    except Unfit as error:
        raise refuse("SERVE-034", stage="serve", key="serve.remote", url=upstream.url, reason=error.reason) from error
    return model


def choose_model(listed: list[tuple[str, int | None]], name: str, limits: Limits) -> str:
    """The one of our name, else the first: vLLM lists its base model first and adapters after it."""
    if not listed:
        raise Unfit(say("unfit_no_model"))
    model, longest = next((entry for entry in listed if entry[0] == name), listed[0])
    if longest is not None and longest < limits.total_tokens:
        raise refuse(
            "SERVE-036", stage="serve", key="serve.max_total_tokens", total=limits.total_tokens, longest=longest
        )
    return model


async def answer(upstream: Upstream, body: dict[str, Any]) -> tuple[list[int], str, int | None]:
    """(token ids, the server's own text, the prompt's tokens as it counts them) of one whole answer."""
    ids: list[int] = []
    text, counted = "", None
    async with aclosing(upstream.events(body | {"stream_options": {"include_usage": True}})) as events:
        async for event in events:
            ids += [token.id for token in event.tokens]
            text += event.text
            counted = event.prompt_tokens or counted
    if not ids:
        raise Unfit(say("unfit_silent"))
    return ids, text, counted


def letters(text: str) -> str:
    """Text without what two honest decoders may disagree on: white space, and bytes that make no character."""
    return "".join(text.split()).replace(UNFINISHED, "")
