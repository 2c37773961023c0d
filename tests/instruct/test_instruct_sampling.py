"""The sampling plan: how many rows to look at, checked against every possible draw."""

from collections.abc import Iterator
from itertools import combinations

import pytest

from easyllm.instruct.review.decisions import standings
from easyllm.instruct.review.log import Decision
from easyllm.instruct.review.sampling import choose, sample_needed, sample_size, sampling, upper_bound
from easyllm.instruct.row import Row

ROWS = [Row(f"Name {number} animals", "", f"Answer {number}") for number in range(60)]


def share_with_few(total: int, bad: int, sample: int, defects: int) -> float:
    """Share of all samples that hold at most so many of the bad rows, by drawing each of them."""
    draws = [sum(row < bad for row in drawn) for drawn in combinations(range(total), sample)]
    return sum(found <= defects for found in draws) / len(draws)


@pytest.mark.parametrize("total", [1, 2, 7, 12])
@pytest.mark.parametrize("error_rate", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("defects", [0, 1, 2])
def test_the_sample_is_the_smallest_that_bad_lots_fail(total: int, error_rate: float, defects: int) -> None:
    size = sample_size(total, error_rate, 0.9, defects)
    worst = int(error_rate * total) + 1  # more bad rows than this fail more often
    fits = [n for n in range(total + 1) if share_with_few(total, min(worst, total), n, defects) <= 0.1 + 1e-12]
    assert size == (fits[0] if fits else total)


@pytest.mark.parametrize("total", [5, 11])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_bound_is_the_most_bad_rows_that_such_a_sample_leaves_likely(total: int, confidence: float) -> None:
    for sample in range(1, total + 1):
        for defects in range(sample + 1):
            possible = range(defects, total - (sample - defects) + 1)
            likely = [bad for bad in possible if share_with_few(total, bad, sample, defects) > 1 - confidence + 1e-12]
            assert upper_bound(total, sample, defects, confidence) == max(likely) / total


def accepted_at_some_look(total: int, bad: int, sizes: list[int]) -> float:
    """Probability that a reviewer who looks again after each bad row ever comes to accept, by following each path."""
    chances, drawn, accepted = {0: 1.0}, 0, 0.0
    for defects, size in enumerate(sizes):
        for at in range(drawn, size):
            after: dict[int, float] = {}
            for found, chance in chances.items():
                hit = (bad - found) / (total - at)
                after[found + 1] = after.get(found + 1, 0) + chance * hit
                after[found] = after.get(found, 0) + chance * (1 - hit)
            chances = after
        accepted += sum(chance for found, chance in chances.items() if found <= defects)
        chances, drawn = {found: chance for found, chance in chances.items() if found > defects}, size
    return accepted


@pytest.mark.parametrize(("total", "error_rate"), [(200, 0.05), (1000, 0.02)])
def test_looking_again_after_every_bad_row_accepts_no_more_bad_lots_than_was_said(
    total: int, error_rate: float
) -> None:
    looks = range(12)
    grown = [sample_needed(total, error_rate, 0.95, defects) for defects in looks]
    assert grown == sorted(grown)
    bad = int(error_rate * total) + 1
    assert accepted_at_some_look(total, bad, [size for size in grown if size < total]) <= 0.05
    # why the plan is no row of single samples: those together accept more bad lots than 5 in 100
    single = [sample_size(total, error_rate, 0.95, defects) for defects in looks]
    assert accepted_at_some_look(total, bad, [size for size in single if size < total]) > 0.05


def test_published_sizes_come_out() -> None:
    """The rule of three (3 / 0.02 = 150) for a large lot, and one row less for the exact law: ln 0.05 / ln 0.98."""
    assert sample_size(10**7, 0.02, 0.95) == 149
    assert upper_bound(10**7, 149, 0, 0.95) <= 0.02 < upper_bound(10**7, 148, 0, 0.95)


def test_a_large_lot_is_planned_at_once() -> None:
    assert sample_needed(100_000, 0.02, 0.95, 0) == 183
    assert 800 < sample_needed(100_000, 0.02, 0.95, 5) < 900


def test_the_sample_hangs_on_the_rows_alone_and_a_larger_one_begins_with_the_smaller() -> None:
    few, more = choose(ROWS, 10), choose(list(reversed(ROWS)), 20)
    assert more[:10] == few
    assert few != ROWS[:10]
    assert choose([*ROWS, *ROWS], 100) == choose(ROWS, 60)


def decisions(rejected: int) -> Iterator[Decision]:
    for at, row in enumerate(choose(ROWS, 60)):
        yield Decision(row.id, "Li", "reject" if at < rejected else "accept")


def test_the_plan_grows_with_every_bad_row_until_the_sample_allows_it() -> None:
    made = list(decisions(rejected=2))
    before = sampling(standings(ROWS, []), 0.2, 0.9)
    assert (before.needed, before.decided, before.bound, before.acceptable) == (before.first_needed, 0, 1.0, False)
    after = sampling(standings(ROWS, made[:2]), 0.2, 0.9)
    assert (after.defects, after.decided, after.first_needed) == (2, 2, before.needed)
    assert before.needed < after.needed < 60
    assert len(after.left) == after.needed - 2
    ready = sampling(standings(ROWS, made[: after.needed]), 0.2, 0.9)
    assert ready.acceptable
    assert ready.bound <= 0.2


def test_rows_outside_the_drawn_order_say_nothing_about_the_lot() -> None:
    made = list(decisions(rejected=0))
    assert sampling(standings(ROWS, made[1:]), 0.2, 0.9).bound == 1.0
    assert not sampling(standings(ROWS, made[1:]), 0.2, 0.9).acceptable
