"""The work divided among processes: the same bytes whatever their number, flat memory, nothing lost to a kill."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import zstandard

from easyllm.core.artifact import list_outputs
from easyllm.core.digest import of_value
from easyllm.core.errors import StageFailed, UserError
from easyllm.core.stage import Result
from easyllm.corpus import gather, pieces, workers
from easyllm.corpus.run import run

Run = Callable[..., tuple[Path, Result]]
SMALL = {"train": {"vocab_size": 400}}


def digest_of(directory: Path) -> str:
    return of_value([row for row in list_outputs(directory) if row["path"] != "manifest.json"])


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 7,000 bytes; a packed file over 1,000 is cut too."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 7_000)
    monkeypatch.setattr(pieces, "WHOLE_PACKED_BYTES", 1_000)


def number_of_shards(out: Path) -> int:
    return sum(path.suffix == ".json" for path in next(out.glob(".shards-*")).iterdir())


def test_one_worker_and_several_write_the_same_bytes_from_plain_and_packed_files(
    tmp_path: Path, run_corpus: Run, prose: Callable[..., Path], small_pieces: None
) -> None:
    data = prose("a.jsonl").read_bytes()
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(data))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(data))
    for n in range(20):
        (tmp_path / f"{n:02d}.txt").write_text(f"A short text, number {n}, in a file of its own.\n")
    section: dict[str, Any] = {"input": ["*.jsonl*", "*.txt"], "tokenizer": SMALL}
    one, result = run_corpus(out="one", workers=1, **section)
    assert result.metrics["documents"] == 620
    assert result.metrics["duplicate_documents"] == 400
    assert number_of_shards(one) > 30
    for count in (2, 3):
        several, _ = run_corpus(out=f"{count}", workers=count, **section)
        assert digest_of(several) == digest_of(one)
    whole = (one / "tokens.bin").read_bytes()
    third, left = divmod(len(whole) - sum(lengths_at_the_end(one, 20)) * 2, 3)
    assert left == 0
    assert whole[:third] == whole[third : 2 * third] == whole[2 * third : 3 * third]  # every packing, the same rows


def lengths_at_the_end(out: Path, documents: int) -> list[int]:
    """Tokens of the last documents, from the index."""
    import numpy

    index = (out / "tokens.idx").read_bytes()
    count = int.from_bytes(index[18:26], "little")
    return [int(n) for n in numpy.frombuffer(index, "<i4", count, 34)[-documents:]]


def test_a_fault_in_the_middle_has_its_line_whichever_piece_it_is_in(
    tmp_path: Path, corpus_job: Callable[..., Any], run_corpus: Run, prose: Callable[..., Path], small_pieces: None
) -> None:
    lines = prose("good.jsonl").read_bytes().splitlines(keepends=True)
    trained, _ = run_corpus(out="good", input=["good.jsonl"], tokenizer=SMALL)
    bad = b"".join([*lines[:150], b"\n", b'{"txt": "?"}\n', *lines[150:]])
    for name, data in (("a.jsonl", bad), ("b.jsonl.gz", gzip.compress(bad)), ("c.jsonl.zst", zstandard.compress(bad))):
        (tmp_path / name).write_bytes(data)
        for count in (1, 2):
            job = corpus_job(out=f"{name}-{count}", input=[name], tokenizer=SMALL, workers=count)
            shutil.copytree(trained / "tokenizer", job.out / "tokenizer")  # learning one would meet the fault first
            with pytest.raises(UserError) as caught:
                run(job)
            (only,) = caught.value.problems
            assert (only.code, only.line, only.file) == ("CORPUS-001", 152, str(tmp_path / name))


def test_more_workers_do_not_make_a_finished_corpus_stale(tmp_path: Path, easyllm, prose: Callable[..., Path]) -> None:
    prose("a.jsonl")
    recipe = {"name": "r", "corpus": {"input": ["a.jsonl"], "tokenizer": SMALL}}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    easyllm("run", "r.yaml", "corpus.workers=1")
    assert "fresh, nothing to do" in easyllm("run", "r.yaml", "corpus.workers=2").stderr


def big_corpus(path: Path, megabytes: int) -> None:
    """Rows of about 8 kB, no two the same."""
    words = [f"{word}{n}" for n in range(40) for word in ("ship", "harbour", "light", "winter", "signal")]
    with path.open("w") as file:
        row, size = 0, 0
        while size < megabytes * 1_000_000:
            text = f"{row} " + " ".join(words[(row * 7 + k * (row % 11 + 3)) % len(words)] for k in range(1_000))
            size += file.write(json.dumps({"text": text}) + "\n")
            row += 1


SMALL_PIECES = """
import sys
from easyllm.corpus import pieces

if __name__ == "__main__":
    pieces.PIECE_BYTES = 300_000
    from easyllm.cli import main

    sys.exit(main())
"""


def start_corpus(folder: Path) -> subprocess.Popen[str]:
    """The command line itself, with pieces so small that a kill falls between them."""
    (folder / "easyllm_in_pieces.py").write_text(SMALL_PIECES)
    command = [sys.executable, "easyllm_in_pieces.py", "run", "r.yaml"]
    return subprocess.Popen(command, cwd=folder, text=True, stderr=subprocess.PIPE, start_new_session=True)


def test_a_killed_corpus_goes_on_where_it_was_and_ends_with_the_same_bytes(tmp_path: Path, easyllm) -> None:
    big_corpus(tmp_path / "a.jsonl", 8)
    tokenizer = {"train": {"vocab_size": 300, "text_bytes": 100_000}}
    recipe = {"name": "r", "corpus": {"input": ["a.jsonl"], "tokenizer": tokenizer, "workers": 2}}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    partial = tmp_path / "runs" / "r" / "corpus.partial"
    started = start_corpus(tmp_path)
    while len(list(partial.glob(".shards-*/*.json"))) < 3:
        assert started.poll() is None, started.stderr and started.stderr.read()
        time.sleep(0.05)
    helpers = psutil.Process(started.pid).children(recursive=True)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    psutil.wait_procs(helpers, timeout=10)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in helpers)  # no orphan writes on
    kept = {path.name: path.stat().st_mtime_ns for path in partial.glob(".shards-*/*.json")}
    assert 3 <= len(kept) < 20  # of 27
    again = start_corpus(tmp_path)
    while again.poll() is None:  # published, the shards are gone: look while they are there
        for path in partial.glob(".shards-*/*.json"):
            if path.name in kept:
                assert path.stat().st_mtime_ns == kept[path.name]
        time.sleep(0.05)
    assert again.returncode == 0, again.stderr and again.stderr.read()
    recipe["name"] = "uncut"
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    easyllm("run", "r.yaml")
    digests = [
        json.loads((tmp_path / "runs" / name / "corpus" / "manifest.json").read_text())["digest"]
        for name in ("r", "uncut")
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("cut", ["before the first", "in the middle of a copy", "after the last"])
def test_a_kill_while_shards_are_put_together_loses_and_repeats_nothing(
    tmp_path: Path,
    corpus_job: Callable[..., Any],
    prose: Callable[..., Path],
    small_pieces: None,
    monkeypatch: pytest.MonkeyPatch,
    cut: str,
) -> None:
    prose("a.jsonl")
    section: dict[str, Any] = {
        "input": ["a.jsonl"],
        "tokenizer": SMALL,
        "workers": 1,
        "split": {"train": 8, "valid": 2},
    }
    whole = corpus_job(out="whole", **section)
    run(whole)
    job = corpus_job(out="cut", **section)
    copy, seen = gather.shutil.copyfileobj, []

    def half(source: Any, target: Any, size: int) -> None:
        seen.append(source)
        if len(seen) == {"before the first": 1, "in the middle of a copy": 7}.get(cut):
            target.write(source.read()[: 100 * (len(seen) - 1)])
            target.flush()
            raise KeyboardInterrupt
        copy(source, target, size)

    with monkeypatch.context() as patch:
        patch.setattr(gather.shutil, "copyfileobj", half)
        if cut == "after the last":
            patch.setattr(gather.Gathered, "finish", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(job)
    run(job)
    assert digest_of(job.out) == digest_of(whole.out)


def test_a_worker_that_dies_ends_the_run_with_its_status(
    tmp_path: Path,
    corpus_job: Callable[..., Any],
    prose: Callable[..., Path],
    small_pieces: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prose("a.jsonl")
    job = corpus_job(input=["a.jsonl"], tokenizer=SMALL, workers=2)
    hire = workers.Crew._hire

    def hire_and_kill(crew: Any) -> Any:
        pipe = hire(crew)
        os.kill(crew._processes[pipe].pid, signal.SIGKILL)
        return pipe

    monkeypatch.setattr(workers.Crew, "_hire", hire_and_kill)
    with pytest.raises(StageFailed) as caught:
        run(job)
    assert caught.value.problem is not None
    assert (caught.value.problem.code, caught.value.problem.params["status"]) == ("CORPUS-010", -9)
    monkeypatch.undo()
    assert run(job).metrics["documents"] == 200


def test_memory_stays_flat_however_large_the_corpus_is(tmp_path: Path, easyllm) -> None:
    """The same recipe on 8 MB and on 48 MB: the larger may hold no more than noise, and not its text or its tokens."""
    peaks = {}
    for size in (8, 48):
        folder = tmp_path / str(size)
        folder.mkdir()
        big_corpus(folder / "a.jsonl", size)
        tokenizer = {"train": {"vocab_size": 300, "text_bytes": 100_000}}
        recipe = {"name": "r", "corpus": {"input": ["a.jsonl"], "tokenizer": tokenizer, "workers": 1}}
        (folder / "r.yaml").write_text(json.dumps(recipe))
        easyllm("run", "r.yaml", cwd=folder)
        manifest = json.loads((folder / "runs" / "r" / "corpus" / "manifest.json").read_text())
        peaks[size] = manifest["peak_memory_bytes"]
    assert peaks[48] < peaks[8] + 20_000_000


def test_duplicates_are_counted_the_same_in_one_round_and_in_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy

    values = numpy.random.default_rng(3).integers(0, 3_000, size=10_000).astype("<u8")
    paths = [tmp_path / "0", tmp_path / "1"]
    values[:4_000].tofile(paths[0])
    values[4_000:].tofile(paths[1])
    expected = len(values) - len(set(values.tolist()))
    assert gather.count_duplicates(paths) == expected
    monkeypatch.setattr(gather, "HASHES_AT_ONCE", 999)
    assert gather.count_duplicates(paths) == expected
    assert gather.count_duplicates([]) == 0
