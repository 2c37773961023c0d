"""align: preference rows and a model become one that prefers what was chosen. Tiny models, TRL's own trainers."""

import csv
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.artifact import Manifest
from easyllm.core.errors import UserError
from tiny_tune import check, make_job, publish, tune, write_base, write_rows

COLOURS = ["red", "blue", "green", "white", "black", "grey", "brown", "pink", "gold", "teal"]
PAIRS: list[dict[str, Any]] = [
    {
        "prompt": f"What colour is door {n}?",
        "chosen": f"{COLOURS[n % 10]}.",
        "rejected": f"The colour of the door is {COLOURS[n % 10]}, I think, but who knows?",
    }
    for n in range(20)
]
ALIGN: dict[str, Any] = {
    "base": "base",
    "data": ["pairs.jsonl"],
    "epochs": 3,
    "learning_rate": 0.003,
    "sequence_tokens": 128,
    "validation_rows": 4,
    "batch": {"global_samples": 4, "micro_samples": 2},
    "checkpoint_every_steps": 3,
}


def align(folder: Path, rows: list[dict[str, Any]] | None = None, **changes: Any) -> Manifest:
    if not (folder / "base").exists():
        write_base(folder / "base")
    write_rows(folder / "pairs.jsonl", PAIRS if rows is None else rows)
    config = ALIGN | changes
    return publish(make_job(folder, "align", {name: value for name, value in config.items() if value is not None}))


def losses(folder: Path) -> list[dict[str, float]]:
    with (folder / "run" / "align" / "losses.csv").open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.mark.parametrize(("method", "rate"), [("lora", 0.003), ("full", 0.0005), ("int8", 0.003), ("qlora", 0.003)])
def test_held_out_pairs_are_preferred_after_dpo(tmp_path: Path, method: str, rate: float) -> None:
    made = align(tmp_path, method=method, learning_rate=rate)
    assert made.kind == ("model" if method == "full" else "adapter")
    assert made.metrics["held_out_margin"] > 0.1
    assert made.metrics["held_out_accuracy"] == 1.0
    assert abs(losses(tmp_path)[0]["margin"]) < 1e-3  # the reference is the model as it began
    assert losses(tmp_path)[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert made.records["method"] == method
    assert (tmp_path / "run" / "align" / "report.md").is_file()
    assert (tmp_path / "run" / "align" / "losses.png").is_file()
