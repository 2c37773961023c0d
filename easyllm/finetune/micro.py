"""How the rows of one optimizer step become the micro batches of each rank."""

from collections.abc import Sequence

Micro = tuple[int, ...]
"""Row numbers of one forward pass; empty where a rank has nothing left and only keeps the others company."""


def share_out(rows: Sequence[int], micro_samples: int, ranks: int) -> list[list[Micro]]:
    """For each rank its micro batches, equally many for all; every row stands in exactly one of them."""
    micro = [tuple(rows[at : at + micro_samples]) for at in range(0, len(rows), micro_samples)]
    micro += [()] * (-len(micro) % ranks)
    return [micro[rank::ranks] for rank in range(ranks)]
