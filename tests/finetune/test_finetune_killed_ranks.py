"""Two ranks killed, all at once, while a state is written: the whole state before it is what the next run takes up."""

import csv
from pathlib import Path
from typing import Any

import pytest

from dying import publish_and_die
from easyllm.finetune import state
from tiny_tune import FINETUNE, tune, write_base, write_rows

CHANGES: dict[str, Any] = {
    "ranks": 2, "epochs": 2, "checkpoint_every_steps": 3, "lora": {"rank": 4, "dropout": 0.1},
    "engine": "deepspeed", "deepspeed": {"zero": 2},
}  # fmt: skip
"""The engine whose state is in several files: one of each rank, and the first rank's, which makes them count."""


def losses(folder: Path) -> list[float]:
    with (folder / "run" / "finetune" / "losses.csv").open(encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_killed_ranks_go_on_from_the_last_whole_state_with_the_same_losses(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        write_base(folder / "base")
        write_rows(folder / "rows.jsonl")
    tune(whole, **CHANGES)
    publish_and_die(cut, "finetune", FINETUNE | CHANGES, rename="step-00000006.pt")
    states = cut / "run" / "finetune.partial" / ".state"
    assert state.newest_step(states) == 3
    assert (states / "step-00000006.pt.half").is_file()  # what the kill cut
    assert state.ranks_folder(states, 6).is_dir()  # whole, and worth nothing without it
    assert not (cut / "run" / "finetune").exists()
    kept = state.load(states, 3)
    tune(cut, **CHANGES)
    before, after = losses(whole), losses(cut)
    assert len(kept["rows"]) == 3 < len(before) == len(after)
    assert after == pytest.approx(before, abs=1e-6)
