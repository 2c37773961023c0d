"""Several answers made at the same time, told as one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from easyllm.serve.contract import Piece, Whole

Numbered = tuple[int, Piece]
"""(which of the answers, its next piece)."""


async def together(answers: Sequence[AsyncGenerator[Piece, None]]) -> AsyncGenerator[Numbered, None]:
    """The pieces of all ``answers`` as they come. Closing it closes every one of them, and so does a failure of one."""
    if len(answers) == 1:
        async with aclosing(answers[0]) as only:
            async for piece in only:
                yield 0, piece
        return
    waiting: dict[asyncio.Future[Piece | None], int] = {}
    try:
        for number, answer in enumerate(answers):
            waiting[asyncio.ensure_future(anext(answer, None))] = number
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for arrived in sorted(done, key=waiting.__getitem__):
                number = waiting.pop(arrived)
                found = arrived.result()
                if found is not None:
                    waiting[asyncio.ensure_future(anext(answers[number], None))] = number
                    yield number, found
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for answer in answers:
            await answer.aclose()


def whole_of(pieces: list[Piece]) -> Whole:
    return Whole("".join(piece.text for piece in pieces), pieces)


def mean_logprob(answer: Whole) -> float:
    """What the best of several answers is chosen by, as text-generation-inference and vLLM do it."""
    return sum(piece.token.logprob for piece in answer.pieces) / len(answer.pieces)
