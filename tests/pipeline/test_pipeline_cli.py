"""The command line's contract: exit codes, where output goes, JSON, both languages."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BROKEN = Path(__file__).parent.parent / "broken"


def test_refused_is_2_and_the_error_says_code_place_and_fix(easyllm) -> None:
    done = easyllm("check", BROKEN / "RECIPE-003.yaml", expect=2)
    assert done.stdout == ""
    assert "RECIPE-003  unknown key corpus.text_keys." in done.stderr
    assert "RECIPE-003.yaml:3" in done.stderr
    assert "Did you mean `text_key`?" in done.stderr
    assert "Traceback" not in done.stderr


def test_refused_as_json_is_one_document_on_stdout(easyllm) -> None:
    done = easyllm("check", BROKEN / "RECIPE-003.yaml", "--json", expect=2)
    [entry] = json.loads(done.stdout)["errors"]
    assert set(entry) == {"code", "message", "stage", "key", "file", "line", "fix"}
    assert (entry["code"], entry["stage"], entry["key"], entry["line"]) == (
        "RECIPE-003", "corpus", "corpus.text_keys", 3,
    )  # fmt: skip


def test_errors_speak_chinese_by_option_and_by_environment(easyllm) -> None:
    recipe = BROKEN / "RECIPE-003.yaml"
    assert "未知的键 corpus.text_keys" in easyllm("--lang", "zh", "check", recipe, expect=2).stderr
    environment = {k: v for k, v in os.environ.items() if k != "EASYLLM_LANG"} | {"LC_ALL": "zh_CN.UTF-8"}
    assert "未知的键" in easyllm("check", recipe, expect=2, env=environment).stderr


def test_a_recipe_that_is_not_there_is_refused(easyllm) -> None:
    assert "RECIPE-001" in easyllm("run", "nowhere.yaml", expect=2).stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("run", "RECIPE", "--from", "merge"), "RECIPE-007"),
        (("run", "RECIPE", "--from", "convert", "--to", "corpus"), "RUN-005"),
        (("convert", "RECIPE"), "INPUT-005"),
        (("merge", "RECIPE"), "RECIPE-007"),
        (("lineage", "."), "LINEAGE-001"),
        (("review", "."), "REVIEW-001"),
        (("recipe", "cp", "nothing"), "RECIPE-008"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_what_cannot_be_done_is_refused_with_its_code(easyllm, tiny: Path, arguments, code: str) -> None:
    done = easyllm(*[tiny if a == "RECIPE" else a for a in arguments], expect=2)
    assert code in done.stderr
    assert "Traceback" not in done.stderr


def test_a_shipped_recipe_is_handed_over_with_its_data_and_overwrites_nothing(easyllm, tmp_path: Path) -> None:
    names = [row["name"] for row in json.loads(easyllm("recipe", "ls", "--json").stdout)]
    assert "tiny-cpu" in names
    for name in names:
        copied = Path(easyllm("recipe", "cp", name, tmp_path / name).stdout.strip())
        found = json.loads(easyllm("check", copied, "--json", expect=None).stdout)["errors"]
        assert {error["code"] for error in found} <= {"RUN-003"}, name  # the disk of a machine smaller than the model
        assert "RECIPE-009" in easyllm("recipe", "cp", name, tmp_path / name, expect=2).stderr


def test_plan_shows_figures_commands_and_reasons_before_anything_exists(easyllm, tiny: Path, tmp_path) -> None:
    stages = {row["stage"]: row for row in json.loads(easyllm("plan", tiny, "--json").stdout)["stages"]}
    assert list(stages) == ["corpus", "pretrain", "convert"]
    assert all(not row["fresh"] for row in stages.values())
    assert any("torch.distributed.run" in command for command in stages["pretrain"]["commands"])
    text = easyllm("plan", tiny, "pretrain").stdout
    assert text.startswith("pretrain: would run (never made)")
    assert not (tmp_path / "runs" / "tiny").exists()


def test_ctrl_c_is_130_and_says_how_to_go_on(tmp_path: Path, tiny: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "easyllm", "run", tiny], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "runs" / "tiny").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "goes on from the last checkpoint" in errors
    assert "Traceback (most recent call last)" not in errors.replace("KeyboardInterrupt", "")
