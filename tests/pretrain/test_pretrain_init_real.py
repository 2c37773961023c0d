"""A real model goes on: the shipped recipe, as it is."""

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_smollm2_takes_up_pages_that_it_had_not_seen(easyllm: Any, tmp_path: Path) -> None:
    easyllm("run", "continue-smollm2-cpu", "--to", "pretrain")
    made = json.loads((tmp_path / "runs" / "continue-smollm2-cpu" / "pretrain" / "manifest.json").read_text("utf-8"))
    assert made["metrics"]["validation_loss"] < made["metrics"]["validation_loss_before"]
    assert made["records"]["init"]["new_tokens"] == 0
