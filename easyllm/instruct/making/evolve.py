"""Evol-Instruct (Xu et al. 2023, arXiv:2304.12244): kept instructions are made harder and then answered."""

from contextlib import aclosing

from easyllm.core.digest import of_value
from easyllm.instruct.ask import Answer
from easyllm.instruct.making.answers import answer_all
from easyllm.instruct.making.workshop import Workshop
from easyllm.instruct.reading import evolved_of
from easyllm.instruct.row import Row


async def evolve(shop: Workshop, rounds: int, share: float) -> None:
    """``rounds`` times: make ``share`` of the rows harder, of the first round all, then those of the round before.

    An evolved instruction is judged like any other: one that is still too like its origin is dropped.
    """
    parents = list(shop.harvest.rows)
    wanted = round(share * len(parents))
    for number in range(rounds):
        chosen = sorted(parents, key=lambda row: of_value([shop.seed, "evolve", number, row.id]))[:wanted]
        before = len(shop.harvest.rows)
        await answer_all(shop, await _harder(shop, chosen, number))
        parents = shop.harvest.rows[before:]


async def _harder(shop: Workshop, chosen: list[Row], number: int) -> list[Row]:
    fresh: list[Row] = []

    async def do(item: tuple[int, Row]) -> tuple[Answer, str | None]:
        way, row = item
        whole = f"{row.instruction}\n\n{row.input}" if row.input else row.instruction
        return await shop.heard(shop.prompts(row.language).evolve(whole, way, number), evolved_of)

    async with aclosing(shop.each(list(enumerate(chosen)), do)) as results:
        async for (_, parent), (answer, text) in results:
            row = Row(text or "", "", "", None, parent.language, "evolved", answer.key)
            if text is None:
                shop.harvest.unread(answer, row)
            elif shop.harvest.instruction(row):
                fresh.append(row)
    return fresh
