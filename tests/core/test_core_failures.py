"""What fails though the input was good has a code too: gates, lost ranks, broken weights."""

import json
import subprocess
import sys

import pytest
import torch

from easyllm import cli
from easyllm.core.errors import StageFailed, failed
from easyllm.core.launch import run_ranks
from easyllm.core.parity import compare

NAMES = ("left", "right")


def logits(*rows: list[float]) -> list[torch.Tensor]:
    return [torch.tensor([list(row) for row in rows])]


def test_equal_logits_hold_and_the_report_says_how_equal() -> None:
    parity = compare(logits([1.0, 2.0], [3.0, 0.0]), logits([1.0, 2.001], [3.0, 0.0]), NAMES, 0.01).require()
    assert parity.as_record()["holds"]
    assert parity.max_logit_difference == pytest.approx(0.001, abs=1e-6)
    assert (parity.positions, parity.top1_agreement) == (2, 1.0)


@pytest.mark.parametrize(
    ("right", "code"),
    [
        (logits([1.0, 2.5], [3.0, 0.0]), "PARITY-001"),  # too far apart
        (logits([2.0, 1.999], [3.0, 0.0]), "PARITY-001"),  # another likeliest token
        (logits([1.0, 2.0, 0.0], [3.0, 0.0, 0.0]), "PARITY-002"),
        (logits([1.0, float("nan")], [3.0, 0.0]), "PARITY-003"),
    ],
)
def test_models_that_do_not_say_the_same_are_told_apart(right: list[torch.Tensor], code: str) -> None:
    with pytest.raises(StageFailed, match=code):
        compare(logits([1.0, 2.0], [3.0, 0.0]), right, NAMES, 0.01).require()


def test_a_rank_that_dies_is_a_failure_with_the_command_to_try_by_hand() -> None:
    with pytest.raises(StageFailed, match=r"RANKS-001  json\.tool ended with exit code 1.*torch\.distr"):
        run_ranks("json.tool", ["no-such-file.json"], 1)


def test_a_failure_is_exit_code_1_and_one_json_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise failed("MERGE-001", stage="merge", base="b")

    monkeypatch.setattr(sys, "argv", ["easyllm", "run", "r", "--json"])
    assert cli._guarded(fail) == 1
    [entry] = json.loads(capsys.readouterr().out)["errors"]
    assert (entry["code"], entry["stage"]) == ("MERGE-001", "merge")
    monkeypatch.setattr(sys, "argv", ["easyllm", "run", "r"])
    assert cli._guarded(fail) == 1
    assert "MERGE-001" in capsys.readouterr().err


def test_language_is_passed_on_to_the_processes_that_do_the_work() -> None:
    code = (
        "import subprocess, sys\nfrom easyllm.core.messages import choose_language\nchoose_language('zh')\n"
        "child = 'from easyllm.core.messages import language; print(language())'\n"
        "print(subprocess.run([sys.executable, '-c', child], capture_output=True, text=True).stdout)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "zh"
