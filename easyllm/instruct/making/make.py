"""A whole making: the recipe's pipeline, then scores, then what is made harder."""

from easyllm.instruct.making.answers import answers
from easyllm.instruct.making.evolve import evolve
from easyllm.instruct.making.one_call import one_call
from easyllm.instruct.making.scoring import score
from easyllm.instruct.making.self_instruct import self_instruct
from easyllm.instruct.making.workshop import Patience, Workshop


async def make_rows(shop: Workshop) -> None:
    """Fill the harvest. Raises Fruitless and BudgetSpent, with what there is by then in the harvest."""
    config = shop.config
    if config.method == "answers":
        await answers(shop)
        await score(shop, 0)
    else:
        pipeline = self_instruct if config.method == "self-instruct" else one_call
        patience = Patience()
        while (before := len(shop.harvest.rows)) < config.count:
            await pipeline(shop, config.count)
            await score(shop, before)  # what it drops is made up for
            patience.count(len(shop.harvest.rows) - before)
    if config.evolve:
        before = len(shop.harvest.rows)
        await evolve(shop, config.evolve.rounds, config.evolve.share)
        await score(shop, before)
