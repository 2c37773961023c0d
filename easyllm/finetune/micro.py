"""How the rows of one optimizer step become the micro batches of each rank."""

from collections.abc import Sequence

Micro = tuple[int, ...]
"""Row numbers of one forward pass; empty where a rank has nothing left and only keeps the others company."""


def share_out(
    rows: Sequence[int], lengths: Sequence[int], micro_samples: int, sequence_tokens: int, packed: bool, ranks: int
) -> list[list[Micro]]:
    """For each rank its micro batches, equally many for all; every row stands in exactly one of them.

    ``lengths`` holds the tokens of every row there is. Packed, a micro batch has at most ``micro_samples`` times
    ``sequence_tokens`` tokens; else it has ``micro_samples`` rows of like length.
    """
    ordered = sorted(rows, key=lambda row: (lengths[row], row))
    if packed:
        micro = _balanced(ordered[::-1], lengths, micro_samples * sequence_tokens, ranks)
    else:
        micro = [tuple(ordered[at : at + micro_samples]) for at in range(0, len(ordered), micro_samples)]
        micro += [()] * (-len(micro) % ranks)
    return [micro[rank::ranks] for rank in range(ranks)]


def _balanced(longest_first: Sequence[int], lengths: Sequence[int], most: int, ranks: int) -> list[Micro]:
    """As few micro batches as hold the rows, alike in tokens: each row goes to the one with fewest so far."""
    tokens = sum(lengths[row] for row in longest_first)
    number = max(1, -(-tokens // (most * ranks))) * ranks
    while True:
        bins: list[list[int]] = [[] for _ in range(number)]
        loads = [0] * number
        for row in longest_first:
            least = loads.index(min(loads))
            bins[least].append(row)
            loads[least] += lengths[row]
        # One row alone always fits, so this ends.
        if max(loads) <= most or number >= len(longest_first):
            return [tuple(rows) for rows in bins]
        number += ranks
