"""One catalogue in two languages, and every code of it is raised by a broken recipe or a named test."""

import json
import re
import string
from pathlib import Path

import pytest

from easyllm import cli
from easyllm.core.messages import catalogue

TESTS = Path(__file__).parent.parent
BROKEN = sorted((TESTS / "broken").glob("*.yaml"))
ERRORS = catalogue("en")["errors"]
SOURCES = "\n".join(p.read_text("utf-8") for p in (TESTS.parent / "easyllm").rglob("*.py"))


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def seen_by_run(path: Path) -> bool:
    return "seen by: run" in path.read_text("utf-8").splitlines()[0]


def test_both_languages_have_the_same_codes_and_texts_with_the_same_numbers() -> None:
    chinese = catalogue("zh")
    assert list(chinese["errors"]) == list(ERRORS)
    assert set(chinese["texts"]) == set(catalogue("en")["texts"])
    for code, entry in ERRORS.items():
        for part in ("what", "fix"):
            assert fields(entry[part]) == fields(chinese["errors"][code][part]), f"{code}.{part}"
    for name, text in catalogue("en")["texts"].items():
        assert fields(text) == fields(chinese["texts"][name]), name


def test_chinese_is_chinese() -> None:
    for code, entry in catalogue("zh")["errors"].items():
        assert re.search(r"[\u4e00-\u9fff]", entry["what"]), code
        assert re.search(r"[\u4e00-\u9fff]", entry["fix"]), code


def test_every_code_in_the_source_is_in_the_catalogue_and_the_other_way_round() -> None:
    used = set(re.findall(r'"([A-Z]+-\d{3})"', SOURCES))
    assert used == set(ERRORS)


def test_every_code_has_a_broken_recipe_or_a_test_that_names_it() -> None:
    recipes = {path.stem for path in BROKEN if not seen_by_run(path)}
    named = "\n".join(p.read_text("utf-8") for p in TESTS.rglob("test_*.py"))
    nowhere = [code for code in ERRORS if code not in recipes and code not in named]
    assert nowhere == []


@pytest.mark.parametrize("path", [p for p in BROKEN if not seen_by_run(p)], ids=lambda p: p.stem)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_check_finds_the_mistake_of_every_broken_recipe(
    path: Path, language: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EASYLLM_LANG", "en")  # --lang sets it; monkeypatch puts it back
    monkeypatch.setattr("sys.argv", ["easyllm", "--lang", language, "check", str(path), "--json"])
    assert cli.main() == 2
    problems = json.loads(capsys.readouterr().out)["errors"]
    assert path.stem in {entry["code"] for entry in problems}, problems
    for entry in problems:
        text = entry["message"] + entry["fix"]
        assert entry["message"]
        assert entry["fix"]
        assert not re.search(r"\{\w*\}", text)  # a number that was not filled in
        assert bool(re.search(r"[\u4e00-\u9fff]", text)) == (language == "zh")
