"""Before and after: what the answers that were chosen and rejected are worth to the model."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from easyllm.align.encoding import Encoded
from easyllm.align.measure import Measured
from easyllm.core.messages import say


@dataclass(frozen=True)
class Line:
    """One line of the table: the rows of one file that were trained on, or held out."""

    part: str
    """train or held_out."""
    file: str
    rows: int
    chosen_before: float
    """Mean log-probability of the chosen answers in nats, before training; this is the reference."""
    chosen_after: float
    rejected_before: float
    rejected_after: float
    margin: float
    """Mean reward of chosen minus rejected, beta times what their log-probabilities gained; zero before training."""
    accuracy: float
    """Share of pairs whose chosen answer gained more; of single answers, of those that moved the right way."""
    preferred_before: float | None
    """Share of pairs whose chosen answer was the likelier one, before; None where no row is a pair."""
    preferred_after: float | None


def lines(part: str, rows: Sequence[Encoded], before: Measured, after: Measured, beta: float) -> list[Line]:
    """One line for each file, in the order they were given; one for all of them where there are several."""
    files = list(dict.fromkeys(row.source.file for row in rows))
    found = []
    for file in files:
        at = [number for number, row in enumerate(rows) if row.source.file == file]
        found.append(_line(part, file.name, [before[n] for n in at], [after[n] for n in at], beta))
    if len(files) > 1:
        found.append(_line(part, "*", before, after, beta))
    return found


def _line(part: str, file: str, before: Measured, after: Measured, beta: float) -> Line:
    gains = [{good: a[good] - b[good] for good in b} for b, a in zip(before, after, strict=True)]
    pairs = [at for at, row in enumerate(before) if len(row) == 2]
    right = [gains[at][True] > gains[at][False] for at in pairs]
    right += [(value > 0) == good for row in gains if len(row) == 1 for good, value in row.items()]
    return Line(
        part, file, len(before),
        chosen_before=_mean(before, True), chosen_after=_mean(after, True),
        rejected_before=_mean(before, False), rejected_after=_mean(after, False),
        margin=beta * (_mean(gains, True) - _mean(gains, False)),
        accuracy=sum(right) / len(right),
        preferred_before=_preferred([before[at] for at in pairs]),
        preferred_after=_preferred([after[at] for at in pairs]),
    )  # fmt: skip


def _mean(rows: Measured, good: bool) -> float:
    values = [row[good] for row in rows if good in row]
    return sum(values) / len(values) if values else 0.0


def _preferred(pairs: Measured) -> float | None:
    return sum(row[True] > row[False] for row in pairs) / len(pairs) if pairs else None


def as_records(table: Sequence[Line]) -> list[dict[str, Any]]:
    return [asdict(line) for line in table]


def as_markdown(table: Sequence[Line]) -> str:
    """The table as it stands in report.md and on the terminal."""
    head = "| " + " | ".join(say("align_columns").split("|")) + " |"
    rule = "|---|---|" + "---:|" * 9
    return "\n".join([head, rule, *[_row(line) for line in table]]) + "\n"


def _row(line: Line) -> str:
    cells = [
        say("align_part_train") if line.part == "train" else say("align_part_held_out"), line.file, str(line.rows),
        f"{line.chosen_before:.2f}", f"{line.chosen_after:.2f}",
        f"{line.rejected_before:.2f}", f"{line.rejected_after:.2f}", f"{line.margin:+.3f}", f"{line.accuracy:.0%}",
        *("-" if share is None else f"{share:.0%}" for share in (line.preferred_before, line.preferred_after)),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"
