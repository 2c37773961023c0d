"""Answers alone: instructions that are there, a person's or the teacher's, are answered anew."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from easyllm.instruct.ask import Answer
from easyllm.instruct.making.workshop import Workshop
from easyllm.instruct.row import Row


async def answers(shop: Workshop) -> None:
    """Every instance of every seed task, answered by the teacher."""
    rows = [
        Row(seed.instruction, instance["input"], "", seed.is_classification, seed.language, "answered")
        for seed in shop.seeds
        if seed.language in shop.languages
        for instance in seed.instances
    ]
    await answer_all(shop, rows[: shop.config.count])


async def answer_all(shop: Workshop, rows: Sequence[Row]) -> None:
    """Ask for the output of each row and judge it."""

    async def do(row: Row) -> Answer:
        return await shop.teacher.ask(shop.prompts(row.language).reply(row.instruction, row.input))

    async with aclosing(shop.each(rows, do)) as results:
        async for row, answer in results:
            shop.harvest.answered(replace(row, output=answer.text.strip(), request=answer.key), answer)
