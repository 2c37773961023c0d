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

    rows = [row for row in shop.harvest.rows[since:] if row.score is None]
    async with aclosing(shop.each(rows, do)) as results:
        async for row, (_, found) in results:
            shop.harvest.rated(row, found, wanted.least)
