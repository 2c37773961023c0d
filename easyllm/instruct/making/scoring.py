"""The teacher's own score of every row, where the recipe asks for it."""

from contextlib import aclosing

from easyllm.instruct.ask import Answer
from easyllm.instruct.clean.score import score_ask, score_of
from easyllm.instruct.making.workshop import Workshop
from easyllm.instruct.row import Row


async def score(shop: Workshop, since: int) -> None:
    """Put a score on every row from place ``since`` on, and drop those below ``clean.score.least``."""
    wanted = shop.config.clean.score
    if wanted is None:
        return

    async def do(row: Row) -> tuple[Answer, int | None]:
        return await shop.heard(score_ask(row, shop.config.teacher.top_p), score_of)

    scores: dict[str, int | None] = {}
    async with aclosing(shop.each(shop.harvest.rows[since:], do)) as results:
        async for row, (_, found) in results:
            scores[row.id] = found
            shop.harvest.scored(len(scores))
    shop.harvest.rated(scores, wanted.least)
