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
    chosen_before: float | None
    """Mean log-probability of the chosen answers in nats, before training: the reference of dpo and kto.

    Of a whole answer; for orpo, which knows nothing else, of its average token. None where there is no such answer.
    """
    chosen_after: float | None
    rejected_before: float | None
    rejected_after: float | None
    margin_before: float | None
    """Mean reward of chosen minus rejected, before training: zero but for orpo. None without answers of both kinds."""
    margin: float | None
    """The same after training. The reward is the objective's own: see ``rewards``."""
    accuracy: float
    """Share of pairs whose chosen answer has the higher reward; of single answers, of those that went the right way."""
    preferred_before: float | None
    """Share of pairs whose chosen answer was the likelier one, before; None where no row is a pair."""
    preferred_after: float | None


def lines(
    part: str, rows: Sequence[Encoded], before: Measured, after: Measured, objective: str, beta: float
) -> list[Line]:
    """One line for each file, in the order they were given; one for all of them where there are several."""
    if objective == "orpo":
        before, after = (_of_average_token(rows, measured) for measured in (before, after))
    files = list(dict.fromkeys(row.source.file for row in rows))
    groups = [(file.name, [at for at, row in enumerate(rows) if row.source.file == file]) for file in files]
    if len(files) > 1:
        groups.append(("*", list(range(len(rows)))))
    return [_line(part, name, [before[n] for n in at], [after[n] for n in at], objective, beta) for name, at in groups]


def _of_average_token(rows: Sequence[Encoded], measured: Measured) -> Measured:
    lengths = [{good: len(ids) for ids, good in row.answers()} for row in rows]
    return [
        {good: value / count[good] for good, value in row.items()} for count, row in zip(lengths, measured, strict=True)
    ]


def rewards(now: Measured, start: Measured, objective: str, beta: float) -> Measured:
    """What the trainer of ``objective`` calls an answer's reward.

    dpo, kto: beta times what its log-probability gained since the start (the reference). orpo has no reference: beta
    times the log-probability of its average token, which is what its odds are made of.
    """
    if objective == "orpo":
        return [{good: beta * value for good, value in row.items()} for row in now]
    return [{good: beta * (row[good] - old[good]) for good in row} for row, old in zip(now, start, strict=True)]


def _line(part: str, file: str, before: Measured, after: Measured, objective: str, beta: float) -> Line:
    first, last = (rewards(measured, before, objective, beta) for measured in (before, after))
    pairs = [at for at, row in enumerate(before) if len(row) == 2]
    right = [last[at][True] > last[at][False] for at in pairs]
    right += [(value > 0) == good for row in last if len(row) == 1 for good, value in row.items()]
    return Line(
        part, file, len(before),
        chosen_before=_mean(before, True), chosen_after=_mean(after, True),
        rejected_before=_mean(before, False), rejected_after=_mean(after, False),
        margin_before=_margin(first), margin=_margin(last),
        accuracy=sum(right) / len(right),
        preferred_before=_preferred([before[at] for at in pairs]),
        preferred_after=_preferred([after[at] for at in pairs]),
    )  # fmt: skip


def _mean(rows: Measured, good: bool) -> float | None:
    values = [row[good] for row in rows if good in row]
    return sum(values) / len(values) if values else None


def _margin(rewards: Measured) -> float | None:
    good, bad = _mean(rewards, True), _mean(rewards, False)
    return None if good is None or bad is None else good - bad


def _preferred(pairs: Measured) -> float | None:
    return sum(row[True] > row[False] for row in pairs) / len(pairs) if pairs else None


def as_records(table: Sequence[Line]) -> list[dict[str, Any]]:
    return [asdict(line) for line in table]


def as_markdown(table: Sequence[Line]) -> str:
    """The table as it stands in report.md and on the terminal."""
    head = "| " + " | ".join(say("align_columns").split("|")) + " |"
    rule = "|---|---|" + "---:|" * 10
    return "\n".join([head, rule, *[_row(line) for line in table]]) + "\n"


def _row(line: Line) -> str:
    cells = [
        say("align_part_train") if line.part == "train" else say("align_part_held_out"), line.file, str(line.rows),
        *(_cell(value, ".2f") for value in (line.chosen_before, line.chosen_after)),
        *(_cell(value, ".2f") for value in (line.rejected_before, line.rejected_after)),
        *(_cell(value, "+.3f") for value in (line.margin_before, line.margin)),
        *(_cell(share, ".0%") for share in (line.accuracy, line.preferred_before, line.preferred_after)),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _cell(value: float | None, shape: str) -> str:
    return "-" if value is None else format(value, shape)
