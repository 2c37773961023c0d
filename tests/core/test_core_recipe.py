"""A recipe is typed: mistakes have a code, the key, the line and the nearest known word."""

import json
from pathlib import Path

import pytest

from easyllm.core.errors import UserError
from easyllm.pipeline import open_project


def write(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text, "utf-8")
    return path


def problems_of(path: Path, *overrides: str) -> list[dict[str, object]]:
    with pytest.raises(UserError) as caught:
        open_project(path, overrides)
    return [entry.as_json() for entry in caught.value.problems]


def test_unknown_key_is_refused_with_the_nearest_known_one_and_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\npretrain:\n  batch:\n    global_samples: 8\n    micro_sample: 2\n")
    found = [entry for entry in problems_of(path) if entry["code"] == "RECIPE-003"]
    assert [(e["key"], e["line"]) for e in found] == [("pretrain.batch.micro_sample", 5)]
    assert "micro_samples" in str(found[0]["fix"])


def test_several_mistakes_are_reported_together(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\nsede: 1\ncorpus: {text_key: 5}\n")
    codes = {str(entry["code"]) for entry in problems_of(path)}
    assert {"RECIPE-003", "RECIPE-004", "RECIPE-006"} <= codes


def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\nseed: 1\ncorpus:\n  text_key: a\n  input: [b]\n  text_key: c\nseed: 2\n")
    found = problems_of(path)
    assert [(entry["code"], entry["line"]) for entry in found] == [("RECIPE-002", 6), ("RECIPE-002", 7)]
    assert "`corpus.text_key` stands in line 4 already" in str(found[0]["message"])


def test_what_an_override_replaces_has_no_line_any_more(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\nserve:\n  ask:\n    - a\n")
    assert {entry["file"] for entry in problems_of(path, "serve.ask=[1]") if entry["key"] == "serve.ask.0"} == {
        "command line"
    }


def test_override_wins_and_its_mistakes_name_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\nseed: 1\n")
    assert open_project(path, ["seed=7"]).recipe.seed == 7
    [entry] = problems_of(path, "seed=many")
    assert (entry["code"], entry["file"]) == ("RECIPE-006", "command line")
    assert problems_of(path, "seed")[0]["code"] == "RECIPE-005"


def test_override_can_reach_a_section_that_the_recipe_does_not_have(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\n")
    project = open_project(path, ["corpus.input=[a.jsonl]", "corpus.tokenizer.train.vocab_size=300"])
    assert project.recipe.corpus is not None
    assert project.recipe.corpus.input == ["a.jsonl"]
    assert project.stages == ("corpus",)


def test_a_recipe_is_immutable(tmp_path: Path) -> None:
    recipe = open_project(write(tmp_path, "name: x\n")).recipe
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 2  # type: ignore[misc]


def test_schema_says_what_every_key_means(easyllm) -> None:
    schema = json.loads(easyllm("recipe", "schema").stdout)
    definitions = [schema, *schema["$defs"].values()]
    silent = [
        f"{definition.get('title')}.{key}"
        for definition in definitions
        for key, value in definition.get("properties", {}).items()
        if not value.get("description")
    ]
    assert silent == []
    assert schema["additionalProperties"] is False


def test_stage_help_lists_the_keys_of_its_section(easyllm) -> None:
    text = easyllm("pretrain", "--help").stdout
    assert "pretrain.batch.micro_samples" in text
