"""The loss and the reward margin of every step, as a table and a picture."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easyllm.core.artifact import write_whole

COLUMNS = {
    "step": "step", "epoch": "epoch", "loss": "loss", "learning_rate": "learning_rate", "gradient_norm": "grad_norm",
    "margin": "rewards/margins", "accuracy": "rewards/accuracies",
    "chosen": "rewards/chosen", "rejected": "rewards/rejected",
}  # fmt: skip
"""Name in losses.csv -> name in the trainer's log. Rewards are the trainer's own, of the step before its update."""

Row = dict[str, Any]


def rows_of(history: Sequence[dict[str, Any]]) -> list[Row]:
    """One row a step of the trainer's whole log, that of the runs before a cut too."""
    return [{ours: entry.get(theirs) for ours, theirs in COLUMNS.items()} for entry in history if "loss" in entry]


def write_curve(rows: Sequence[Row], out: Path) -> None:
    """losses.csv and losses.png in ``out``; floats as Python prints them, so that they read back bit-equal."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(out / "losses.csv", text.getvalue())
    _picture(rows, out / "losses.png")


def _picture(rows: Sequence[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = [row["step"] for row in rows]
    with pyplot.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 6), layout="constrained", sharex=True)
        above.plot(steps, [row["loss"] for row in rows], color="#1f4e8c", linewidth=1.5)
        above.set(ylabel="loss", title="align")
        below.plot(steps, [row["margin"] for row in rows], color="#1f4e8c", linewidth=1.5)
        below.set(xlabel="step", ylabel="reward margin")
        share = below.twinx()
        share.plot(steps, [row["accuracy"] for row in rows], color="#999999", linewidth=1.0)
        share.set(ylabel="accuracy (grey)", ylim=(0, 1.05))
        for axes in (above, below):
            axes.grid(alpha=0.25)
        figure.savefig(path, dpi=130)
        pyplot.close(figure)
