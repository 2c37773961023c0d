"""What a user did wrong: found at the head by check, further down by the run, with the same code and place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.errors import UserError
from easyllm.corpus.checks import check
from easyllm.corpus.run import run

Maker = Callable[..., Any]
SMALL = {"train": {"vocab_size": 300}}


def codes(job: Any) -> list[str]:
    return [entry.code for entry in check(job)]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"text": "a comma",}', "ROWS-001"),
        (b"[1]", "ROWS-002"),
        ('{"text": "国标"}'.encode("gb18030"), "ROWS-004"),
        (b'{"text": "\\udc00"}', "ROWS-005"),
        (b'{"txt": "x"}', "CORPUS-001"),
        (b'{"text": 1}', "CORPUS-002"),
        (b'{"text": null}', "CORPUS-002"),
    ],
)
def test_a_fault_at_the_head_is_seen_by_check_and_one_further_down_by_the_run(
    tmp_path: Path, corpus_job: Maker, line: bytes, code: str
) -> None:
    good = b'{"text": "a good line of a corpus"}\n'
    (tmp_path / "head.jsonl").write_bytes(good * 4 + line + b"\n" + good)
    (found,) = check(corpus_job(input=["head.jsonl"], tokenizer=SMALL))
    assert (found.code, found.line, found.file) == (code, 5, str(tmp_path / "head.jsonl"))
    (tmp_path / "deep.jsonl").write_bytes(good * 5000 + line + b"\n" + good)
    job = corpus_job(input=["deep.jsonl"], tokenizer={"train": {"vocab_size": 270}})
    assert codes(job) == []
    with pytest.raises(UserError) as caught:
        run(job)
    assert [(entry.code, entry.line) for entry in caught.value.problems] == [(code, 5001)]


def test_a_missing_key_is_named_with_the_nearest_and_all_there_are(tmp_path: Path, corpus_job: Maker) -> None:
    (tmp_path / "a.jsonl").write_text('{"src": "t", "content": "x", "id": 1}\n')
    (found,) = check(corpus_job(input=["a.jsonl"], text_key="contents"))
    assert "it has: src, content, id" in found.what
    assert "nearest is `content`" in found.fix
    assert found.key == "corpus.text_key"


def test_every_bad_file_is_named_once(tmp_path: Path, corpus_job: Maker) -> None:
    for n in range(3):
        (tmp_path / f"{n}.jsonl").write_text("no json\n" * 5)
    assert codes(corpus_job(input=["*.jsonl"])) == ["ROWS-001"] * 3


@pytest.mark.parametrize("content", ["", "\n\n", '{"text": ""}\n{"text": " \\t\\n "}\n'])
def test_a_corpus_without_a_document_is_refused_by_check_and_by_the_run(
    tmp_path: Path, corpus_job: Maker, content: str, prose: Callable[..., Path]
) -> None:
    prose("good.jsonl")
    trained = corpus_job(out="good", input=["good.jsonl"], tokenizer=SMALL)
    run(trained)
    (tmp_path / "a.jsonl").write_text(content)
    job = corpus_job(input=["a.jsonl"], tokenizer={"model": "good/tokenizer"})
    assert codes(job) == ["CORPUS-003"]
    with pytest.raises(UserError, match="CORPUS-003"):
        run(job)


@pytest.mark.parametrize(("size", "refused"), [(-5, True), (257, True), (258, False)])
def test_a_vocabulary_that_cannot_hold_all_bytes_is_refused(
    tmp_path: Path, corpus_job: Maker, size: int, refused: bool, prose: Callable[..., Path]
) -> None:
    prose("a.jsonl", 5)
    job = corpus_job(input=["a.jsonl"], tokenizer={"train": {"vocab_size": size}})
    assert codes(job) == (["CORPUS-004"] if refused else [])
    if not refused:
        assert run(job).records["ledger"]["tokenizer_size"] == size


def test_a_vocabulary_that_the_text_does_not_yield_is_refused_with_the_size_it_does(
    tmp_path: Path, corpus_job: Maker, prose: Callable[..., Path]
) -> None:
    prose("a.jsonl", 20)
    with pytest.raises(UserError) as caught:
        run(corpus_job(input=["a.jsonl"]))
    (only,) = caught.value.problems
    assert (only.code, only.params["asked"]) == ("CORPUS-007", 8000)
    reached = only.params["reached"]
    made = run(corpus_job(out="again", input=["a.jsonl"], tokenizer={"train": {"vocab_size": reached}}))
    assert made.records["ledger"]["tokenizer_size"] == reached


@pytest.mark.parametrize(("tokenizer", "found"), [({}, 0), ({"train": {}, "model": "model"}, 2)])
def test_a_tokenizer_is_trained_or_taken_over_and_never_both(
    tmp_path: Path, corpus_job: Maker, tokenizer: dict[str, Any], found: int, prose: Callable[..., Path]
) -> None:
    prose("a.jsonl", 5)
    (tmp_path / "model").mkdir()
    (only,) = check(corpus_job(input=["a.jsonl"], tokenizer=tokenizer))
    assert (only.code, only.params["found"]) == ("CORPUS-008", found)


@pytest.fixture
def taken_over(tmp_path: Path, corpus_job: Maker, prose: Callable[..., Path]) -> Path:
    """A good tokenizer directory, to be spoilt."""
    prose("a.jsonl")
    job = corpus_job(out="trained", input=["a.jsonl"], tokenizer=SMALL)
    run(job)
    shutil.copytree(job.out / "tokenizer", tmp_path / "model")
    return tmp_path / "model"


def test_a_tokenizer_without_its_parts_is_refused_before_anything_runs(taken_over: Path, corpus_job: Maker) -> None:
    job = corpus_job(input=["a.jsonl"], tokenizer={"model": "model"})
    assert codes(job) == []
    config = json.loads((taken_over / "tokenizer_config.json").read_text())
    (taken_over / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": None}))
    assert codes(job) == ["CORPUS-006"]
    (taken_over / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|endoftext|>"}}')
    assert codes(job) == []
    (taken_over / "tokenizer_config.json").write_text("{")
    assert codes(job) == ["CORPUS-005"]
    (taken_over / "tokenizer.json").unlink()
    assert codes(job) == ["CORPUS-005"]
    with pytest.raises(UserError, match="CORPUS-005"):
        run(job)


@pytest.mark.parametrize("content", ["{", '{"version": "1.0", "model": {"type": "BPE"}}'], ids=["cut", "no vocabulary"])
def test_a_tokenizer_file_that_cannot_be_read_is_refused_by_the_run(
    taken_over: Path, corpus_job: Maker, content: str
) -> None:
    (taken_over / "tokenizer.json").write_text(content)
    job = corpus_job(input=["a.jsonl"], tokenizer={"model": "model"})
    with pytest.raises(UserError, match="CORPUS-005"):
        run(job)
    assert not (job.out / "tokenizer").exists()


def test_the_command_refuses_with_exit_code_two_and_no_traceback(tmp_path: Path, easyllm) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' * 5000 + "broken\n")
    (tmp_path / "r.yaml").write_text(
        '{"name": "r", "corpus": {"input": ["a.jsonl"], "tokenizer": {"train": {"vocab_size": 258}}}}'
    )
    done = easyllm("run", "r.yaml", expect=2)
    assert "ROWS-001" in done.stderr + done.stdout
    assert f"{tmp_path / 'a.jsonl'}:5001" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "r" / "corpus").exists()
