"""The loss curve: one CSV row a step, every step once however often the run was cut; and its picture."""

import csv
import io
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from easyllm.core.artifact import write_whole


@dataclass(frozen=True)
class Row:
    """One optimizer step."""

    step: int
    """Counted from 1."""
    loss: float
    """Mean cross-entropy per token over the global batch, in nats."""
    learning_rate: float
    grad_norm: float
    """Before clipping; not a number where fp16 overflowed and the step was skipped."""
    tokens: int
    """Trained on so far."""
    seconds: float
    """Wall time of this step, validation apart."""
    validation: float | None = None
    """Mean cross-entropy per token of the held-out samples after this step; empty where it was not measured."""
    tokens_per_second: float | None = None
    """Of this step, over all ranks."""
    utilisation: float | None = None
    """Model FLOPs a second over the peak of all ranks; empty where no peak is known."""


HEADER = [field.name for field in fields(Row)]
MAY_BE_EMPTY = ("validation", "tokens_per_second", "utilisation")


def read(path: Path) -> list[Row]:
    """All whole rows; a last line that a kill cut is left out."""
    if not path.is_file():
        return []
    lines = path.read_text("utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    rows = csv.DictReader(whole)
    return [
        Row(
            step=int(r["step"]),
            loss=float(r["loss"]),
            learning_rate=float(r["learning_rate"]),
            grad_norm=float(r["grad_norm"]),
            tokens=int(r["tokens"]),
            seconds=float(r["seconds"]),
            **{name: float(r[name]) if r.get(name) else None for name in MAY_BE_EMPTY},
        )
        for r in rows
    ]


def keep_up_to(path: Path, step: int) -> list[Row]:
    """Drop the rows after ``step``, which will be trained again; gives the rows that stay."""
    rows = [row for row in read(path) if row.step <= step]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(astuple(row) for row in rows)
    write_whole(path, text.getvalue())
    return rows


def append(path: Path, row: Row) -> None:
    """One row more; floats as Python prints them, so that they read back bit-equal."""
    with path.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerow(astuple(row))


def picture(rows: list[Row], path: Path, title: str) -> None:
    """Loss over steps with a running mean and the validation loss, and the learning rate below it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (above, below) = pyplot.subplots(
            2, 1, figsize=(8, 5.4), sharex=True, height_ratios=[4, 1], layout="constrained"
        )
        steps = [row.step for row in rows]
        above.plot(steps, [row.loss for row in rows], color="#9db7d5", linewidth=1, label="each step")
        above.plot(steps, running_mean([row.loss for row in rows]), color="#1f4e8c", linewidth=2, label="running mean")
        held_out = [(row.step, row.validation) for row in rows if row.validation is not None]
        if held_out:
            above.plot(*zip(*held_out, strict=True), color="#c46a1b", marker="o", markersize=4, label="validation")
        above.set(ylabel="loss, nats per token", title=title)
        above.annotate(f"{rows[-1].loss:.2f}", (steps[-1], rows[-1].loss), (5, 0), textcoords="offset points")
        above.grid(alpha=0.25)
        above.legend(frameon=False)
        below.plot(steps, [row.learning_rate for row in rows], color="#c46a1b", linewidth=1.5)
        below.set(xlabel="step", ylabel="learning rate")
        below.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        below.grid(alpha=0.25)
        figure.savefig(path, dpi=130)
        pyplot.close(figure)


def running_mean(values: list[float]) -> list[float]:
    """Exponential mean over about 20 values, unbiased at the start."""
    mean, weight, smooth = 0.0, 0.0, []
    for value in values:
        mean, weight = 0.9 * mean + 0.1 * value, 0.9 * weight + 0.1
        smooth.append(mean / weight)
    return smooth
