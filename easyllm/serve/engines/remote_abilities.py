"""What a server behind ours really honours: each ability is asked for once, and counts only where its effect shows.

A server's name or version would not tell: vLLM ignores fields that it does not know, others refuse them.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from easyllm.serve.contract import Abilities, EngineFailed, Grammar, Sampling
from easyllm.serve.engines.introduction import answer
from easyllm.serve.engines.upstream import TOO_MANY_REQUESTS, UNAVAILABLE, Upstream
from easyllm.serve.engines.wire import request_body
from easyllm.serve.text import decode

DIGITS = Grammar("regex", "[0-9]{2}")
FEW_TOKENS = 8


async def find_abilities(upstream: Upstream, model: str, tokenizer: Any, ends: list[int], ids: list[int]) -> Abilities:
    """Raises EngineFailed where the server is away or full, so that nothing can be said of it."""

    async def said(sampling: Sampling, tokens: int = 1) -> list[int]:
        return (await answer(upstream, request_body(model, ids, tokens, sampling, ends)))[0]

    async def penalties() -> bool:
        first = (await said(Sampling()))[0]
        bent = Sampling(
            min_p=0.01, repetition_penalty=1.01, frequency_penalty=0.01, presence_penalty=0.01,
            logit_bias=((first, -100.0),),
        )  # fmt: skip
        return (await said(bent))[0] != first

    async def likeliest() -> bool:
        body = request_body(model, ids, 1, Sampling(likeliest=2), ends)
        tokens = [token async for event in upstream.events(body) for token in event.tokens]
        best = [number for number, _ in tokens[0].likeliest] if tokens else []
        return len(best) == 2 and best[0] == tokens[0].id

    async def grammar() -> bool:
        found = await said(Sampling(grammar=DIGITS), FEW_TOKENS)
        text = decode(tokenizer, [token for token in found if token not in ends])
        return len(text) == 2 and text.isdigit()

    async def score() -> bool:
        return len(await upstream.scores(model, ids, 1)) == len(ids)

    return Abilities(
        penalties=await works(penalties), likeliest=await works(likeliest), grammar=await works(grammar),
        score=await works(score),
    )  # fmt: skip


async def works(ability: Callable[[], Awaitable[bool]]) -> bool:
    """What the trial says; False also where the server refuses it or fails at it."""
    try:
        return await ability()
    except EngineFailed as error:
        if error.status in (TOO_MANY_REQUESTS, UNAVAILABLE):
            raise
        return False
