"""Whole rows in one answer, as Alpaca made them: the cheapest way, and the labels of classifications do not balance."""

from contextlib import aclosing

from easyllm.instruct.ask import Answer, Ask
from easyllm.instruct.making.workshop import Patience, Workshop
from easyllm.instruct.reading import rows_of
from easyllm.instruct.row import Row


async def one_call(shop: Workshop, count: int) -> None:
    """Ask until the harvest has ``count`` rows. Raises Fruitless, and what the teacher raises."""
    patience = Patience()

    def make(_: int) -> tuple[str, Ask] | None:
        language = shop.languages[shop.requests % len(shop.languages)]
        shown = shop.draw_examples(language, shop.requests)
        ask = shop.prompts(language).rows(shown, shop.config.per_request, shop.requests)
        shop.requests += 1
        return language, ask

    async def do(item: tuple[str, Ask]) -> tuple[Answer, list[dict[str, str]] | None]:
        return await shop.heard(item[1], rows_of)

    async with aclosing(shop.over(make, do)) as results:
        async for (language, _), (answer, found) in results:
            before = len(shop.harvest.rows)
            for texts in found or ():
                row = Row(
                    texts["instruction"], texts["input"], texts["output"], language=language, request=answer.key
                )
                if len(shop.harvest.rows) < count and shop.harvest.whole(row, answer):
                    shop.instructions.append(row)
            if found is None:
                shop.harvest.unread(answer, Row("", "", "", language=language, request=answer.key))
            if len(shop.harvest.rows) >= count:
                return
            patience.count(len(shop.harvest.rows) - before)
