"""Artifacts appear whole or not at all, and are fresh exactly when nothing they rest on has changed."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from easyllm.core import workplace
from easyllm.core.artifact import is_whole, read_manifest, recover
from easyllm.core.digest import Digests, of_file
from easyllm.core.errors import UserError
from easyllm.core.freshness import fingerprint, state
from easyllm.core.inputs import Input
from easyllm.core.section import Section
from easyllm.core.stage import Job, Plan, Result


class Letters(Section):
    word: str = "abc"


def job_of(folder: Path, word: str = "abc", digest: str = "d1") -> Job[Letters]:
    return Job(
        stage="letters",
        config=Letters(word=word),
        inputs={"source": Input("source", "s.txt", "files", digest=digest)},
        seed=1,
        recipe="r",
        run_dir=folder,
        cache_dir=folder / ".cache",
        out=folder / "letters.partial",
    )


def write_letters(job: Job[Letters]) -> Result:
    (job.out / "word.txt").write_text(job.config.word)
    (job.out / ".scratch").mkdir(exist_ok=True)
    (job.out / ".scratch" / "state").write_text("resume state")
    return Result("letters", metrics={"letters": len(job.config.word)})


def made(job: Job[Letters]) -> None:
    workplace.open_partial(job)
    workplace.publish_result(job, write_letters)


def test_a_published_artifact_has_its_files_a_manifest_and_no_resume_state(tmp_path: Path) -> None:
    made(job_of(tmp_path))
    final = tmp_path / "letters"
    assert sorted(p.name for p in final.iterdir()) == ["manifest.json", "word.txt"]
    manifest = read_manifest(final)
    assert manifest is not None
    assert manifest.outputs == [{"path": "word.txt", "bytes": 3, "sha256": of_file(final / "word.txt")}]
    assert manifest.metrics == {"letters": 3}
    assert manifest.versions["easyllm"]
    assert not (tmp_path / "letters.partial").exists()


def test_a_stage_that_fails_publishes_nothing_and_leaves_the_old_artifact(tmp_path: Path) -> None:
    made(job_of(tmp_path))
    changed = job_of(tmp_path, word="xyz")
    workplace.open_partial(changed)

    def fail(job: Job[Letters]) -> Result:
        (job.out / "word.txt").write_text("half")
        raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        workplace.publish_result(changed, fail)
    assert (tmp_path / "letters" / "word.txt").read_text() == "abc"


def test_fresh_until_config_input_or_a_file_changes(tmp_path: Path) -> None:
    assert state(job_of(tmp_path)).reason == "not_made"
    made(job_of(tmp_path))
    assert state(job_of(tmp_path)).fresh
    assert state(job_of(tmp_path, word="abd")).reason == "config_changed"
    assert state(job_of(tmp_path, digest="d2")).reason == "input_changed"
    (tmp_path / "letters" / "word.txt").unlink()
    assert state(job_of(tmp_path)).reason == "incomplete"


def test_a_cut_run_of_the_same_job_keeps_its_partial_and_another_job_starts_empty(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    assert workplace.open_partial(job) is False
    (job.out / "half.txt").write_text("half")
    assert workplace.open_partial(job) is True
    assert (job.out / "half.txt").exists()
    other = job_of(tmp_path, word="other")
    assert fingerprint(other) != fingerprint(job)
    assert workplace.open_partial(other) is False
    assert not (other.out / "half.txt").exists()


def test_a_kill_between_the_two_renames_of_publishing_loses_nothing(tmp_path: Path) -> None:
    made(job_of(tmp_path))
    final = tmp_path / "letters"
    os.rename(final, tmp_path / "letters.old")  # the kill came right after the first rename
    recover(final)
    manifest = read_manifest(final)
    assert manifest is not None
    assert is_whole(final, manifest)
    assert not (tmp_path / "letters.old").exists()


def test_two_runs_of_one_recipe_at_once_are_refused(tmp_path: Path) -> None:
    second = workplace.locked(tmp_path)
    with workplace.locked(tmp_path), pytest.raises(UserError, match=f"RUN-001.*pid {os.getpid()}"):
        second.__enter__()
    with workplace.locked(tmp_path):
        pass  # free again


def test_a_changed_byte_changes_the_digest_and_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one")
    digests = Digests(tmp_path / "store.json")
    first = digests.of_file(file)
    digests.save()
    again = Digests(tmp_path / "store.json")
    assert again.of_file(file) == first
    file.write_text("two")
    os.utime(file, ns=(1, 1))
    assert again.of_file(file) == of_file(file) != first


def test_a_disk_too_small_is_known_before_the_run(tmp_path: Path) -> None:
    [entry] = workplace.room_for("pretrain", Plan(disk_bytes=10**18), tmp_path / "not" / "yet")
    assert entry.code == "RUN-003"
    assert "1,000 PB" in entry.what
    assert workplace.room_for("pretrain", Plan(disk_bytes=1), tmp_path) == []


def test_a_disk_that_fills_up_while_a_stage_works_is_a_coded_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="RUN-002"), workplace.full_disk_is_the_users("x", tmp_path):
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="other"), workplace.full_disk_is_the_users("x", tmp_path):
        raise OSError(2, "other")


def test_versions_name_what_decides_results() -> None:
    found = SimpleNamespace(**workplace.versions())
    assert found.torch.startswith("2.")
    assert found.python
