"""Built-in data: real prose out of the running Python, made once."""

import json
from pathlib import Path

import pytest

from easyllm.core.errors import UserError
from easyllm.recipes.builtin import materialise


@pytest.fixture(scope="module")
def python_docs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return materialise("python-docs", tmp_path_factory.mktemp("cache"), "corpus", "corpus.input")


def test_python_docs_are_megabytes_of_distinct_rows_from_two_sources(python_docs_file: Path) -> None:
    rows = [json.loads(line) for line in python_docs_file.open(encoding="utf-8")]
    assert all(list(row) == ["src", "text", "type", "id", "title"] for row in rows)
    assert all(isinstance(value, str) for row in rows for value in row.values())
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == len(rows)
    assert {row["type"] for row in rows} == {"reference", "docstring"}
    assert 1_800_000 < sum(len(row["text"].encode()) for row in rows) < 4_000_000
    assert sum(row["type"] == "reference" for row in rows) > 100


def test_python_docs_hold_what_the_reference_and_the_library_say(python_docs_file: Path) -> None:
    texts = {row["id"]: row["text"] for row in map(json.loads, python_docs_file.open(encoding="utf-8"))}
    assert "Assert statements are a convenient way" in texts["reference/assert/1"]
    assert texts["json.encoder.JSONEncoder"].startswith("class JSONEncoder")
    assert "Extensible JSON" in texts["json.encoder.JSONEncoder"]
    assert "def iterencode(self, o, _one_shot=False)" in texts["json.encoder.JSONEncoder"]


def test_making_it_again_gives_the_same_bytes_and_asking_again_writes_nothing(
    python_docs_file: Path, tmp_path: Path
) -> None:
    again = materialise("python-docs", tmp_path, "corpus", "corpus.input")
    assert again.read_bytes() == python_docs_file.read_bytes()
    assert [path.name for path in again.parent.iterdir()] == [again.name]
    before = again.stat()
    assert materialise("python-docs", tmp_path, "corpus", "corpus.input") == again
    assert again.stat().st_mtime_ns == before.st_mtime_ns


def test_an_unknown_name_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no built-in data named novels; there are: python-docs"):
        materialise("novels", tmp_path, "corpus", "corpus.input")
    assert not (tmp_path / "builtin").exists()
