"""Every command and recipe of the README runs, in the order it is written."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from easyllm.pipeline import check, open_project

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


def test_the_readme_has_both_languages_and_the_two_commands() -> None:
    english, chinese = README.split("# 中文", 1)
    assert len(re.findall(r"[\u4e00-\u9fff]", chinese)) > 500
    for part in (english, chinese):
        assert "make demo" in part
        assert "make test" in part


def test_every_make_command_of_the_readme_is_a_target() -> None:
    for line in [line for line in commands() if line.startswith("make ")]:
        done = subprocess.run(["make", "-n", *line.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_easyllm_commands_of_the_readme_run_one_after_the_other(easyllm, tmp_path: Path) -> None:
    found = [line for line in commands() if line.startswith("easyllm ")]
    assert len(found) >= 6
    for line in found:
        command, _, target = line.partition(" > ")
        done = easyllm(*shlex.split(command)[1:])
        if target:
            (tmp_path / target).write_text(done.stdout, "utf-8")


@pytest.mark.parametrize("recipe", blocks("yaml"))
def test_recipes_of_the_readme_are_good(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "any")  # that there is one is checked, and no more
    monkeypatch.setenv("SERVING_KEYS", "me:0123456789abcdef")
    data = tmp_path / "data"
    data.mkdir()
    prose = (ROOT / "tests" / "broken" / "data" / "good.jsonl").read_text("utf-8")
    rows = (ROOT / "tests" / "broken" / "data" / "rows.jsonl").read_text("utf-8")
    (data / "rows.jsonl").write_text(rows, "utf-8")
    (data / "prose.jsonl").write_text(prose, "utf-8")
    path = tmp_path / "readme.yaml"
    path.write_text(recipe.replace("data/*.jsonl", "data/prose.jsonl"), "utf-8")
    smaller = ["corpus.tokenizer.train.vocab_size=300"] if "train: {vocab_size" in recipe else []
    project = open_project(path, [f"runs_dir={tmp_path / 'runs'}", *smaller])
    assert [str(entry) for entry in check(project, project.stages)] == []


def test_every_verb_is_told_of(easyllm) -> None:
    shown = easyllm("--help").stdout.split("Commands:")[1]
    verbs = set(re.findall(r"^  ([a-z]+)  ", shown, flags=re.MULTILINE))
    assert {verb for verb in verbs if verb not in README} == set()
