"""Self-Instruct in its own steps: instructions, whether each is a classification, then inputs with their answers.

Of a classification the label is made first and the input to fit it, so that labels balance; of anything else the
input first (Wang et al. 2022, section 3.1).
"""

from contextlib import aclosing

from easyllm.instruct.ask import Answer, Ask
from easyllm.instruct.making.workshop import Patience, Workshop
from easyllm.instruct.prompts import Prompts
from easyllm.instruct.reading import instances_of, instructions_of, kind_of
from easyllm.instruct.row import Row

KIND_EXAMPLES = 3
"""Of each kind, shown where the teacher is asked for the kind."""
INSTANCE_EXAMPLES = 3

Instances = tuple[bool | None, Answer, list[dict[str, str]] | None]


async def self_instruct(shop: Workshop, count: int) -> None:
    """Ask until the harvest has ``count`` rows. Raises Fruitless, and what the teacher raises."""
    patience = Patience()
    while len(shop.harvest.rows) < count:
        before = len(shop.harvest.rows)
        fresh = await _instructions(shop, count - before)
        await _instances(shop, fresh, count)
        patience.count(len(shop.harvest.rows) - before)


async def _instructions(shop: Workshop, wanted: int) -> list[Row]:
    """``wanted`` new instructions that are good and unlike all before them."""
    fresh: list[Row] = []
    patience = Patience()
    while len(fresh) < wanted:
        await _some(shop, fresh, wanted, patience)
    return fresh


async def _some(shop: Workshop, fresh: list[Row], wanted: int, patience: Patience) -> None:
    def ask_of(prompts: Prompts, shown: list[Row], draw: int) -> Ask:
        return prompts.instructions([row.instruction for row in shown], shop.config.per_request, draw)

    async with aclosing(shop.asked(wanted - len(fresh), ask_of, instructions_of)) as results:
        async for language, answer, texts in results:
            before = len(fresh)
            for text in texts or ():
                row = Row(text, "", "", language=language, request=answer.key)
                if len(fresh) < wanted and shop.harvest.instruction(row):
                    fresh.append(row)
                    shop.instructions.append(row)
            if texts is None:
                shop.harvest.unread(answer, Row("", "", "", language=language, request=answer.key))
            if len(fresh) >= wanted:
                return
            patience.count(len(fresh) - before)


async def _instances(shop: Workshop, fresh: list[Row], count: int) -> None:
    """Inputs and answers for each of ``fresh``, until there are ``count`` rows."""

    async def do(row: Row) -> Instances:
        prompts = shop.prompts(row.language)
        examples = [
            *shop.draw_seeds(row.language, "kinds", KIND_EXAMPLES, classification=True),
            *shop.draw_seeds(row.language, "kinds", KIND_EXAMPLES, classification=False),
        ]
        kind = kind_of(await shop.teacher.ask(prompts.kind(row.instruction, examples)))
        alike = shop.draw_seeds(row.language, row.instruction, INSTANCE_EXAMPLES, classification=bool(kind))
        ask = prompts.instances(row.instruction, bool(kind), alike, shop.config.instances, 0)
        return kind, *await shop.heard(ask, instances_of)

    async with aclosing(shop.each(fresh, do)) as results:
        async for row, (kind, answer, found) in results:
            for texts in found or ():
                made = Row(row.instruction, texts["input"], texts["output"], kind, row.language, request=answer.key)
                if len(shop.harvest.rows) < count:
                    shop.harvest.answered(made, answer)
            if found is None:
                shop.harvest.unread(answer, row)
