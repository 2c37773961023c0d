"""The loss curves of several runs side by side: ``easyllm plot RUN...`` gives one picture and one table."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from easyllm.core.errors import refuse
from easyllm.core.messages import say, term
from easyllm.pretrain.losses import Row, read, running_mean

PLACES = ("", "losses.csv", "pretrain/losses.csv", "pretrain.partial/losses.csv")
"""Where a run's curve stands, from what a user names: the file, the stage's folder, the run's; one under way too."""
LAST_STEPS = 100
"""Throughput is that of the last steps: the first ones warm up."""


@dataclass(frozen=True)
class Curve:
    """One run."""

    name: str
    path: Path
    rows: list[Row]

    @property
    def validated(self) -> list[Row]:
        return [row for row in self.rows if row.validation is not None]

    def summary(self) -> dict[str, Any]:
        """What tells it from the others, in numbers; None where it was not measured."""
        last, recent = self.rows[-1], self.rows[-LAST_STEPS:]
        held_out = [(row.validation, row.step) for row in self.validated]
        best = min(held_out, default=(None, None))
        reached = [row.utilisation for row in recent if row.utilisation is not None]
        trained = last.tokens - (self.rows[-len(recent) - 1].tokens if len(recent) < len(self.rows) else 0)
        return {
            "run": self.name,
            "steps": last.step,
            "tokens": last.tokens,
            "loss, running mean": running_mean([row.loss for row in self.rows])[-1],
            "best validation": best[0],
            "at step": best[1],
            "tokens/s": trained / sum(row.seconds for row in recent),
            "utilisation": sum(reached) / len(reached) if reached else None,
        }


def open_curves(named: list[Path]) -> list[Curve]:
    """One for each path, told apart by the run's name, or by the path where two have the same. PLOT-001."""
    files = [_file(path) for path in named]
    names = [_run_name(file) for file in files]
    twice = {name for name, count in Counter(names).items() if count > 1}
    return [
        Curve(str(path) if name in twice else name, file, read(file))
        for path, file, name in zip(named, files, names, strict=True)
    ]


def _file(named: Path) -> Path:
    for place in PLACES:
        path = named / place
        if path.is_file() and read(path):
            return path
    raise refuse("PLOT-001", path=str(named), places=", ".join(filter(None, PLACES)))


def _run_name(file: Path) -> str:
    stage = file.absolute().parent
    return stage.parent.name if stage.name.split(".")[0] == "pretrain" else stage.name


def table(curves: list[Curve]) -> str:
    """One line a run."""
    summaries = [curve.summary() for curve in curves]
    names = list(summaries[0])
    rows = [[term(name) for name in names], *([_cell(name, row[name]) for name in names] for row in summaries)]
    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(names))]
    lines = ["  ".join(_padded(text, width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "utilisation":
        return f"{value:.1%}"
    if name == "tokens/s" or isinstance(value, int):
        return f"{value:,.0f}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def picture(curves: list[Curve], path: Path, by: str) -> None:
    """Loss with its running mean, the validation points, and throughput below, over ``by``: steps or tokens.

    The file appears whole.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (above, below) = pyplot.subplots(
            2, 1, figsize=(9, 6), sharex=True, height_ratios=[4, 1], layout="constrained"
        )
        for curve in curves:
            _draw(curve, above, below, by)
        above.set(ylabel="loss, nats per token", title=", ".join(curve.name for curve in curves))
        above.legend(frameon=False)
        above.grid(alpha=0.25)
        below.set(xlabel=by, ylabel="tokens/s", ylim=(0, None))
        below.grid(alpha=0.25)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        figure.savefig(beside, dpi=130, format="png")
        pyplot.close(figure)
    os.replace(beside, path)


def _draw(curve: Curve, above: Any, below: Any, by: str) -> None:
    def across(rows: list[Row]) -> list[int]:
        return [row.tokens if by == "tokens" else row.step for row in rows]

    values = [row.loss for row in curve.rows]
    [drawn] = above.plot(across(curve.rows), running_mean(values), linewidth=2, label=curve.name)
    colour = drawn.get_color()
    above.plot(across(curve.rows), values, color=colour, linewidth=0.8, alpha=0.3)
    if curve.validated:
        held_out, label = [row.validation for row in curve.validated], say("plot_validation", name=curve.name)
        above.plot(
            across(curve.validated), held_out, color=colour, linestyle=":", marker="o", markersize=4, label=label
        )
    timed = [row for row in curve.rows if row.tokens_per_second is not None]
    below.plot(across(timed), [row.tokens_per_second for row in timed], color=colour, linewidth=1)
