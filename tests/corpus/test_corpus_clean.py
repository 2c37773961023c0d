"""Documents that are not worth training on are dropped by datatrove's blocks, each counted and shown."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import Table, parquet

from easyllm.core.artifact import list_outputs
from easyllm.core.digest import of_value
from easyllm.core.errors import UserError
from easyllm.core.rows import read_rows
from easyllm.core.stage import Result
from easyllm.corpus import pieces
from easyllm.corpus.checks import check
from easyllm.corpus.clean import cleaning
from easyllm.corpus.plan import plan
from easyllm.corpus.run import run

Run = Callable[..., tuple[Path, Result]]
SMALL = {"train": {"vocab_size": 300}}
ENGLISH = """
the keeper of a lighthouse counts ships while winter fog comes over cold grey water from far western islands
""".split()  # noqa: SIM905
CHINESE = "灯塔看守人清晨数着离港的船只冬雾从西边海面慢慢漫上来渔夫说今天风大不宜远行大家便坐在炉边喝茶讲起去年的旧事"
NAMES = ("length", "language", "repetition", "exact_duplicates", "near_duplicates")


def english(seed: int, words: int = 120) -> str:
    """Words of English, no two seeds alike and nothing said twice for long."""
    dice = random.Random(seed)
    return " ".join(" ".join(dice.sample(ENGLISH, 9)).capitalize() + "." for _ in range(words // 9))


def chinese(seed: int, sentences: int = 12) -> str:
    dice = random.Random(seed)
    return "".join("".join(dice.sample(CHINESE, 14)) + "。" for _ in range(sentences))


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), "utf-8")
    return path


GOOD = [english(n) for n in range(30)] + [chinese(n) for n in range(30)]
FRENCH = "Bonjour tout le monde, il fait beau aujourd'hui et nous allons nous promener au bord de la mer. " * 2
AGAIN = "I say the same few words again and again and again. " * 30
NEAR = [GOOD[2].replace("ships", "SHIPS,", 1) + " Now.", GOOD[33] + "完。"]
BAD = ["too short", FRENCH, AGAIN, GOOD[5], GOOD[40], *NEAR, "  "]
ALL_BLOCKS: dict[str, Any] = {
    "length": {"min_characters": 50},
    "language": {"keep": ["zh", "wuu", "yue", "en"]},
    "repetition": {},
    "exact_duplicates": True,
    "near_duplicates": {},
}

NO_MODEL = {name: value for name, value in ALL_BLOCKS.items() if name != "language"}
"""Its model takes each process half a second to read."""


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that these few documents make several tasks, and equal ones are in different tasks."""
    monkeypatch.setattr(cleaning, "TASK_BYTES", 10_000)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 10_000)


def digest_of(directory: Path) -> str:
    return of_value([row for row in list_outputs(directory) if row["path"] != "manifest.json"])


def texts_of(out: Path) -> list[str]:
    return [row["text"] for path in sorted((out / "clean").iterdir()) for _, row in read_rows(path, "corpus")]


def test_every_block_drops_its_own_and_says_how_many_and_which(
    tmp_path: Path, run_corpus: Run, corpus_job: Callable[..., Any], small_tasks: None
) -> None:
    write(tmp_path / "a.jsonl", [*GOOD, *BAD])
    section: dict[str, Any] = {"input": ["a.jsonl"], "tokenizer": SMALL, "clean": {**ALL_BLOCKS, "keep": True}}
    decisions = {entry.what: entry.value for entry in plan(corpus_job(**section)).decisions}
    assert decisions["cleaning"] == list(NAMES)  # in this order
    out, result = run_corpus(workers=1, **section)
    kept = texts_of(out)
    # Of nearly equal documents any may stay, of equal ones the first does.
    assert [text for text in GOOD if text not in kept] == [text for text in (GOOD[2], GOOD[33]) if text not in kept]
    assert len(kept) == len(GOOD) == result.metrics["documents"]
    assert result.metrics["dropped_documents"] == dict(zip(NAMES, (1, 1, 1, 2, 2), strict=True))
    report = json.loads((out / "report.json").read_text())
    assert report["empty_documents"] == 1
    found = report["cleaning"]
    assert (found["read"], found["kept"]) == (67, 60)
    assert [(block["documents"], block["dropped"]) for block in found["blocks"]] == [
        (67, 1), (66, 1), (65, 1), (64, 2), (62, 2),
    ]  # fmt: skip
    assert [block["reasons"] for block in found["blocks"][:2]] == [{"fewer characters": 1}, {"fr": 1}]
    shown = [[example["begins"] for example in block["examples"]] for block in found["blocks"]]
    assert shown[:3] == [["too short"], [FRENCH[:300]], [AGAIN[:300]]]
    assert set(shown[3]) == {GOOD[5][:300], GOOD[40][:300]}
    prose = (out / "report.md").read_text("utf-8")
    assert "67 documents came in, 60 stayed." in prose
    assert "| all | 67 | 1 | 1 | 1 | 2 | 2 | 60 |" in prose
    assert "### Dropped by language, 1 of 1" in prose
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        "clean", "lengths.png", "report.json", "report.md", "tokenizer", "tokens.bin", "tokens.idx",
    ]  # fmt: skip


def test_one_worker_and_several_leave_the_same_documents_of_weighted_sources_in_any_form(
    tmp_path: Path, run_corpus: Run, small_tasks: None
) -> None:
    write(tmp_path / "a.jsonl", GOOD)
    parquet.write_table(Table.from_pylist([{"text": t} for t in [*BAD[:-1], *GOOD]]), tmp_path / "b.parquet", 9)
    (tmp_path / "c.txt").write_text(english(99))
    sources = [
        {"source": ["a.jsonl"], "weight": 1, "name": "prose"},
        {"source": ["b.parquet", "c.txt"], "weight": 2, "name": "rest"},
    ]
    section: dict[str, Any] = {"input": sources, "tokenizer": SMALL, "clean": ALL_BLOCKS}
    one, result = run_corpus(out="one", workers=1, **section)
    rows = json.loads((one / "report.json").read_text())["cleaning"]["sources"]
    assert [(row["name"], row["read"], row["kept"]) for row in rows] == [("prose", 60, 60), ("rest", 68, 1)]
    assert rows[1]["dropped"] == dict(zip(NAMES, (1, 1, 1, 62, 2), strict=True))
    by_source = {row["name"]: row["documents"] for row in result.records["tokens"]["sources"]}
    assert by_source == {"prose": {"train": 60}, "rest": {"train": 1}}
    assert not (one / "clean").exists()
    three, _ = run_corpus(out="three", workers=3, **section)
    assert digest_of(three) == digest_of(one)


SMALL_TASKS = """
import sys
from easyllm.corpus import pieces
from easyllm.corpus.clean import cleaning

if __name__ == "__main__":
    cleaning.TASK_BYTES = pieces.PIECE_BYTES = 20_000
    from easyllm.cli import main

    sys.exit(main())
"""


def test_a_killed_cleaning_goes_on_where_it_was_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [english(n) for n in range(200)] + [english(n) for n in range(50)])
    recipe = {"name": "r", "corpus": {"input": ["a.jsonl"], "tokenizer": SMALL, "clean": NO_MODEL, "workers": 2}}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    (tmp_path / "in_tasks.py").write_text(SMALL_TASKS)
    partial = tmp_path / "runs" / "r" / "corpus.partial"

    def start(*more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "in_tasks.py", "run", "r.yaml", *more]
        return subprocess.Popen(command, cwd=tmp_path, text=True, stderr=subprocess.PIPE, start_new_session=True)

    started = start()
    while len(list(partial.glob(".clean-*/logs/filter/completions/*"))) < 4:
        assert started.poll() is None, started.stderr and started.stderr.read()
        time.sleep(0.02)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    time.sleep(0.5)  # orphans end by themselves
    before = {path: path.stat().st_mtime_ns for path in partial.glob(".clean-*/logs/*/completions/*")}
    assert len(before) >= 4
    again = start()
    while again.poll() is None:  # published, they are gone: look while they are there
        assert all(path.stat().st_mtime_ns == then for path, then in before.items() if path.exists())
        time.sleep(0.02)
    assert again.stderr
    told = again.stderr.read()
    assert again.returncode == 0, told
    assert "going on" in told
    assert "leaked" not in told
    uncut = start("name=uncut")
    assert uncut.wait() == 0
    manifests = [json.loads((tmp_path / "runs" / n / "corpus" / "manifest.json").read_text()) for n in ("r", "uncut")]
    assert manifests[0]["digest"] == manifests[1]["digest"]
    assert manifests[0]["metrics"]["dropped_documents"]["exact_duplicates"] == 50


def test_a_block_that_leaves_nothing_is_named_with_its_numbers(tmp_path: Path, run_corpus: Run) -> None:
    """CORPUS-033"""
    write(tmp_path / "a.jsonl", GOOD[:10])
    with pytest.raises(UserError) as caught:
        run_corpus(input=["a.jsonl"], tokenizer=SMALL, clean={"language": {"keep": ["ar", "zh"]}})
    (only,) = caught.value.problems
    assert (only.code, only.key) == ("CORPUS-033", "corpus.clean.language")
    assert "of 10 documents, the block language dropped 10 (en 10)" in only.what


def test_a_fault_that_the_cleaning_meets_has_its_file_and_line(
    tmp_path: Path, run_corpus: Run, small_tasks: None
) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([*lines[:50], '{"txt": 1}', *lines[50:]]), "utf-8")
    for count in (1, 2):
        with pytest.raises(UserError) as caught:
            run_corpus(out=f"out{count}", workers=count, input=["a.jsonl"], clean={"exact_duplicates": True})
        (only,) = caught.value.problems
        assert (only.code, only.line, only.file) == ("CORPUS-001", 51, str(path))


def test_limits_on_words_count_a_chinese_character_as_one(tmp_path: Path, run_corpus: Run) -> None:
    write(tmp_path / "a.jsonl", ["one two three four", "灯塔看守", "灯塔 看守人", "one, two - 3!", *GOOD[:9]])
    clean = {"length": {"min_words": 4, "max_words": 5}, "keep": True}
    out, _ = run_corpus(input=["a.jsonl"], tokenizer={"train": {"vocab_size": 258}}, clean=clean)
    assert texts_of(out) == ["one two three four", "灯塔看守", "灯塔 看守人"]


def test_wrong_words_for_a_language_name_the_nearest_code(tmp_path: Path, corpus_job: Callable[..., Any]) -> None:
    write(tmp_path / "a.jsonl", GOOD)
    job = corpus_job(input=["a.jsonl"], clean={"language": {"keep": ["English", "cn", "zh"]}})
    assert [(entry.code, entry.params["asked"]) for entry in check(job)] == [
        ("CORPUS-032", "English"), ("CORPUS-032", "cn"),
    ]  # fmt: skip
    assert "`en`" in check(job)[0].fix


def test_a_changed_block_begins_anew(tmp_path: Path, corpus_job: Callable[..., Any]) -> None:
    write(tmp_path / "a.jsonl", GOOD)
    (tmp_path / "out").mkdir()
    counts = []
    for least in (50, 300):
        shutil.rmtree(tmp_path / "out")  # what open_partial does where the settings are others
        clean = {"length": {"min_characters": least}}
        counts.append(run(corpus_job(input=["a.jsonl"], tokenizer=SMALL, clean=clean)).metrics["documents"])
    assert counts[0] == 60 > counts[1]
