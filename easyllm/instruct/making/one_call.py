"""Whole rows in one answer, as Alpaca made them: the cheapest way, and the labels of classifications do not balance."""

from contextlib import aclosing

from easyllm.instruct.ask import Ask
from easyllm.instruct.making.workshop import Patience, Workshop
from easyllm.instruct.prompts import Prompts
from easyllm.instruct.reading import rows_of
from easyllm.instruct.row import Row


async def one_call(shop: Workshop, count: int) -> None:
    """Ask until the harvest has ``count`` rows. Raises Fruitless, and what the teacher raises."""
    patience = Patience()
    while len(shop.harvest.rows) < count:
        await _rows(shop, count, patience)


async def _rows(shop: Workshop, count: int, patience: Patience) -> None:
    def ask_of(prompts: Prompts, shown: list[Row], draw: int) -> Ask:
        return prompts.rows(shown, shop.config.per_request, draw)

    harvest = shop.harvest
    async with aclosing(shop.asked(count - len(harvest.rows), ask_of, rows_of)) as results:
        async for language, answer, found in results:
            before = len(harvest.rows)
            for said in found or ():
                texts = said["instruction"], said["input"], said["output"]
                row = Row(*texts, language=language, request=answer.key)
                if len(harvest.rows) < count and harvest.whole(row, answer):
                    shop.instructions.append(row)
            if found is None:
                harvest.unread(answer, Row("", "", "", language=language, request=answer.key))
            if len(harvest.rows) >= count:
                return
            patience.count(len(harvest.rows) - before)
