"""What a recipe's wrong values are told, in the catalogue's words and at the user's own keys."""

import importlib
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from easyllm.core.complaints import MISSING, UNKNOWN, complaints
from easyllm.core.errors import UserError
from easyllm.core.section import Section
from easyllm.pipeline import STAGES, open_project

ODD = ["x", "", "q" * 200, -1, 0, 1, 10**9, 0.5, -0.5, 1.5, math.inf, math.nan, True, None, [], {}, ["x"], [""], [1],
       ["b", "b"], ["v4", "v4"], ["f16", "f16"], [1, 2, 3], {"x": 1}, {2: 7}, [{"weight": "q"}], [{2: 1}]]  # fmt: skip

ENGLISH = re.compile(r"\b(is|of|than|needed|text|list)\b")


def sections(above: type[Section] = Section) -> Iterator[type[Section]]:
    for section in above.__subclasses__():
        yield section
        yield from sections(section)


def told(tmp_path: Path, text: str) -> dict[str, tuple[str, str]]:
    """Of each key of a wrong recipe: its code and its message."""
    path = tmp_path / "r.yaml"
    path.write_text(f"name: x\n{text}\n", "utf-8")
    with pytest.raises(UserError) as caught:
        open_project(path)
    return {str(entry.key): (entry.code, entry.what) for entry in caught.value.problems}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_field_of_every_section_refuses_odd_values_in_our_own_words(
    language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in STAGES:
        importlib.import_module(f"easyllm.{stage}.config")
    monkeypatch.setenv("EASYLLM_LANG", language)
    refused = 0
    for section in set(sections()):
        for name in section.model_fields:
            for value in ODD:
                try:
                    section.model_validate({name: value})
                except ValidationError as error:
                    entries = error.errors(include_url=False)
                    for found in complaints(entries, {name: value}):
                        where = (section.__name__, found)
                        assert found.kind in (MISSING, UNKNOWN) or found.detail, where
                        assert not re.search("[Ii]nput|should|valid", found.detail), where
                        assert language == "en" or not ENGLISH.search(found.detail), where
                        refused += 1
    assert refused > 1000


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("finetune: {packing: maybe}", "finetune.packing", "true or false, or 'auto' is needed"),
        ("finetune: {data: [3]}", "finetune.data.0", "text, or a mapping (key: value) is needed"),
        ("finetune: {data: [{rows: a.jsonl, weight: q}]}", "finetune.data.0.weight", "a number is needed"),
        ("finetune: {lora: {targets: 5}}", "finetune.lora.targets", "'auto', or a list, or text is needed"),
        ("finetune: {lora: {save_modules: [1]}}", "finetune.lora.save_modules.0", ": text is needed"),
        ("corpus: {input: [7]}", "corpus.input.0", "text, or a mapping (key: value) is needed"),
        ("corpus: {split: {train: 0}}", "corpus.split.train", "a number above 0 is needed"),
        ("evaluate: {tasks: [a, a]}", "evaluate.tasks", ": a is given twice"),
        ("serve: {engine: tgi}", "serve.engine", "one of 'embedded', 'llama.cpp', 'remote' is needed"),
        ("corpus: {3: x}", "corpus.3", "text as the key is needed"),
    ],
)
def test_a_value_that_may_be_of_several_kinds_is_told_of_once(tmp_path: Path, text: str, key: str, words: str) -> None:
    code, what = told(tmp_path, text)[key]
    assert code == "RECIPE-006"
    assert what.endswith(f"{words}.")


def test_a_mapping_with_a_wrong_key_is_not_told_to_be_no_text(tmp_path: Path) -> None:
    found = told(tmp_path, "finetune: {base: hf:a/b, data: [{path: a.jsonl, weight: 1}]}")
    assert {key: code for key, (code, _) in found.items()} == {
        "finetune.data.0.path": "RECIPE-003",
        "finetune.data.0.rows": "RECIPE-004",
    }
