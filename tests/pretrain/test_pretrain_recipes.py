"""The recipes that ship for large models: checked, planned, and rehearsed on the CPU by the line that each carries."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from easyllm import pipeline
from easyllm.pretrain import losses
from easyllm.pretrain.fitting import RESERVED
from easyllm.recipes import shipped
from tiny_megatron import shared_corpus

GOLDEN = Path(__file__).parent / "golden"
RECIPES = [row["name"] for row in shipped.listing()]
LARGE = [name for name in RECIPES if name.startswith(("gpt2-", "llama-"))]


def rehearsal(name: str) -> list[str]:
    """The words of the command in the recipe's comment: ``easyllm run NAME ...`` and its indented lines."""
    text = shipped.find(name).read_text("utf-8")
    first, *more = re.findall(r"^#   (easyllm run .*|  \S.*)$", text, re.MULTILINE)
    assert first.startswith(f"easyllm run {name} --to pretrain name={name}-cpu ")
    return shlex.split(" ".join([first, *more]))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_that_ships_is_right_but_for_this_machines_disk(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    project = pipeline.open_project(shipped.find(name))
    wrong = [str(entry) for entry in pipeline.check(project, project.stages) if entry.code != "RUN-003"]
    assert wrong == []


def test_the_list_says_what_each_recipe_is(easyllm) -> None:
    lines = easyllm("recipe", "ls").stdout.splitlines()
    assert [line.split()[0] for line in lines] == RECIPES
    for line in lines:
        assert line.endswith("."), line


@pytest.mark.parametrize("name", LARGE)
def test_a_large_recipe_says_what_was_run_and_what_was_not(name: str) -> None:
    text = shipped.find(name).read_text("utf-8")
    assert "What was run: " in text
    assert "What was not: " in text


@pytest.mark.parametrize("name", LARGE)
def test_a_large_recipe_fits_the_gpus_that_it_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [size] = re.findall(r"GPUs? of (\d+) GB", shipped.find(name).read_text("utf-8").splitlines()[0])
    project = pipeline.open_project(shipped.find(name))
    figures = pipeline.plan_of(pipeline.make_job(project, "pretrain")).figures
    needed = sum(value for key, value in figures.items() if key.endswith(" per rank, bytes"))
    assert needed < int(size) * 1e9 * (1 - RESERVED)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_the_cpu_twin_of_a_large_recipe_trains(
    name: str, easyllm, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The very words of the comment, but on a corpus that is there already."""
    corpus = shared_corpus(tmp_path_factory.getbasetemp())
    changes = [word for word in rehearsal(name) if "=" in word]
    held_out = "pretrain.validation.share=0.1"  # that corpus holds no part back
    easyllm("pretrain", name, *changes, f"pretrain.corpus={corpus}", held_out)
    rows = losses.read(tmp_path / "runs" / f"{name}-cpu" / "pretrain" / "losses.csv")
    assert [row.step for row in rows] == [1, 2, 3, 4]
    assert rows[-1].validation is not None


def test_the_plan_of_gpt2_345m_is_the_one_on_record(easyllm, tmp_path: Path) -> None:
    """To renew it: write what the test prints to the file, once every number in it has been understood."""
    text = easyllm("plan", "gpt2-345m", "pretrain").stdout
    text = text.replace(sys.executable, "python").replace(str(tmp_path), "HERE")
    assert text == (GOLDEN / "plan-gpt2-345m.txt").read_text("utf-8"), text
