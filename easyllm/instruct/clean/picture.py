"""rows.png: how long instructions are, and how like each is to the most similar one before it."""

import os
from collections.abc import Sequence
from pathlib import Path

from easyllm.instruct.clean.tokens import units_of
from easyllm.instruct.row import Row

KEPT, DROPPED = "#1f4e8c", "#c8c8c8"


def draw(path: Path, rows: Sequence[Row], dropped: Sequence[Row]) -> None:
    """Two histograms, what was dropped in grey. The same rows give the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    lengths, alike = figure.subplots(1, 2)
    both = ([units_of(row.instruction) for row in group] for group in (rows, dropped))
    lengths.hist(list(both), bins=30, stacked=True, color=[KEPT, DROPPED], label=["kept", "dropped"])
    lengths.set(xlabel="words, or characters of Chinese, in the instruction", ylabel="rows")
    nearest = ([row.nearest["rouge_l"] for row in group if row.nearest] for group in (rows, dropped))
    alike.hist(list(nearest), bins=20, range=(0, 1), stacked=True, color=[KEPT, DROPPED])
    alike.set(xlabel="ROUGE-L to the most similar instruction before it", ylabel="rows")
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    for axes in (lengths, alike):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    beside = path.with_name(f".{path.name}.{os.getpid()}.png")
    figure.savefig(beside, dpi=120, metadata={"Software": None})
    os.replace(beside, path)
