"""The loss curve as a table and a picture."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import pairwise
from pathlib import Path

from easyllm.core.artifact import write_whole
from easyllm.finetune.training import Row


def write_curve(rows: Sequence[Row], out: Path) -> None:
    """losses.csv and losses.png in ``out``; floats as Python prints them, so that they read back bit-equal."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_whole(out / "losses.csv", text.getvalue())
    _picture(rows, out / "losses.png")


def _picture(rows: Sequence[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = pyplot.subplots(figsize=(8, 4.2), layout="constrained")
        steps = [row.step for row in rows]
        axes.plot(steps, [row.loss for row in rows], color="#1f4e8c", linewidth=1.5, label="training")
        measured = [(row.step, row.held_out_loss) for row in rows if row.held_out_loss is not None]
        if measured:
            axes.plot(*zip(*measured, strict=True), color="#c0552b", linewidth=1.5, marker="o", label="held out")
            axes.legend(frameon=False)
        for first in (b.step for a, b in pairwise(rows) if b.epoch != a.epoch):
            axes.axvline(first - 0.5, color="#bbbbbb", linewidth=0.8)
        axes.annotate(f"{rows[-1].loss:.3f}", (steps[-1], rows[-1].loss), (5, 0), textcoords="offset points")
        axes.set(xlabel="step (grey lines: epochs)", ylabel="loss, nats per answer token", title="finetune")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        figure.savefig(path, dpi=130)
        pyplot.close(figure)
