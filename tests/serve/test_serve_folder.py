"""Serving without a recipe: a model's directory, or the newest merged model of a folder of runs."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from easyllm.core.artifact import Manifest, write_whole
from easyllm.core.chat import load_tokenizer, seal
from easyllm.core.errors import UserError
from easyllm.serve import address
from easyllm.serve.folder import find_model, folder_job


def publish(model: Path, folder: Path, ended: str, kind: str = "model", **records: Any) -> Path:
    """What merge would have left in ``folder``."""
    shutil.copytree(model, folder)
    manifest = Manifest(kind, "merge", folder.parent.name, "", "abc", {}, {}, [], {}, 1, records=records, ended=ended)
    write_whole(folder / "manifest.json", manifest.as_json())
    return folder


@pytest.fixture
def runs(serve_model: Path, tmp_path: Path) -> Path:
    """Two runs that have merged, one that has not, and the pipeline's own folders."""
    for name, ended in (("new", "2026-03-02T10:00:00+00:00"), ("old", "2026-03-01T10:00:00+00:00")):
        publish(serve_model, tmp_path / "runs" / name / "merge", ended)
    (tmp_path / "runs" / "started" / "merge.partial").mkdir(parents=True)
    (tmp_path / "runs" / ".cache").mkdir()
    return tmp_path / "runs"


def test_the_newest_merged_model_of_all_runs_is_served_and_named(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = folder_job(runs, [f"serve.port={address.free_port()}"])
    assert job.inputs["model"].path == runs / "new" / "merge"
    assert job.recipe == "new"
    assert "the newest of 2 merged models" in capsys.readouterr().err


def test_one_run_and_one_model_are_folders_to_serve_too(runs: Path, serve_model: Path, tmp_path: Path) -> None:
    assert find_model(runs / "old")[0] == runs / "old" / "merge"
    assert find_model(runs / "old" / "merge")[0] == runs / "old" / "merge"
    theirs = shutil.copytree(serve_model, tmp_path / "theirs")  # someone else's model has no manifest
    job = folder_job(theirs, [f"serve.port={address.free_port()}"])
    assert (job.inputs["model"].path, job.recipe) == (theirs, "theirs")


def test_a_folder_without_a_model_is_refused_with_what_was_looked_for(easyllm: Any, tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine" / "finetune").mkdir(parents=True)
    for language, word in (("en", "merge/"), ("zh", "没有模型")):
        told = easyllm("--lang", language, "serve", tmp_path / "runs", expect=2).stderr
        assert told.startswith(f"SERVE-020  {tmp_path / 'runs'}")
        assert word in told
        assert "make merge" in told
        assert told.count("\n") == 1


def test_a_home_that_nobody_has_is_not_found(easyllm: Any, serve_model: Path) -> None:
    assert easyllm("serve", "~no-such-user-of-easyllm/m", expect=2).stderr.startswith("RECIPE-001")
    asked = ["serve.adapters={a: ~no-such-user-of-easyllm/x}", f"serve.port={address.free_port()}"]
    with pytest.raises(UserError, match="INPUT-001"):
        folder_job(serve_model, asked)


def test_an_adapter_is_refused_as_no_model(serve_model: Path, tmp_path: Path) -> None:
    adapter = publish(serve_model, tmp_path / "run" / "finetune", "", kind="adapter")
    with pytest.raises(UserError, match=r"INPUT-004 .*adapter.*model is needed"):
        folder_job(adapter, [])


def test_a_manifest_of_another_program_is_refused(serve_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(serve_model, tmp_path / "model")
    for text in ("{not json", "[]", '{"version": 2}'):
        (model / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=r"INPUT-009 .*manifest\.json"):
            folder_job(model, [])


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become someone else")
@pytest.mark.parametrize("hidden", ["model.safetensors", "."])
def test_what_this_user_may_not_read_is_told_before_anything_loads(serve_model: Path, hidden: str) -> None:
    told = ""
    with tempfile.TemporaryDirectory() as open_to_all:  # pytest's own folders are closed to others
        Path(open_to_all).chmod(0o755)
        model = shutil.copytree(serve_model, Path(open_to_all) / "model")
        for file in [model, *model.iterdir()]:
            file.chmod(0o755)
        (model / hidden).chmod(0o600)
        os.seteuid(12345)
        try:
            folder_job(model, [])
        except UserError as error:
            told = str(error)
        finally:
            os.seteuid(0)
    assert re.search(r"SERVE-021 .*model/\S+ cannot be read by user 12345: .*chmod -R a\+rX", told), told
    assert (hidden if hidden != "." else "/model") in told


def test_the_folder_is_the_model_and_only_the_serve_section_can_be_set(serve_model: Path) -> None:
    with pytest.raises(UserError, match=r"RECIPE-006 .*serve\.model"):
        folder_job(serve_model, ["serve.model=convert"])
    with pytest.raises(UserError, match=r"RECIPE-003 .*finetune"):
        folder_job(serve_model, ["finetune.epochs=2"])
    with pytest.raises(UserError, match=r"SERVE-006"):
        folder_job(serve_model, ["serve.max_total_tokens=100000", f"serve.port={address.free_port()}"])


def test_a_template_edited_after_training_is_refused_from_a_folder_too(
    easyllm: Any, serve_model: Path, tmp_path: Path
) -> None:
    record = seal(load_tokenizer(serve_model))
    model = publish(serve_model, tmp_path / "run" / "merge", "", template=record)
    template = model / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("assistant\n", "assistant \n"), "utf-8")
    told = easyllm("serve", tmp_path / "run", f"serve.port={address.free_port()}", expect=2).stderr
    assert "SERVE-004" in told
    assert "Traceback" not in told


READ_ONLY = 'mount -o remount,bind,ro / && mount -t tmpfs tmpfs "$TMPDIR" && exec "$@"'


@pytest.fixture
def read_only_machine(tmp_path: Path) -> list[str]:
    """The beginning of a command that sees nothing it can write to but an empty TMPDIR, as in the container."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    begin = ["env", f"TMPDIR={scratch}", f"HOME={scratch}/home", "unshare", "--mount", "sh", "-c", READ_ONLY, "sh"]
    probe = [*begin, "touch", str(tmp_path / "written")]
    if (
        shutil.which("unshare") is None
        or "Read-only" not in subprocess.run(probe, capture_output=True, text=True).stderr
    ):
        pytest.skip("this machine does not let a test mount a read-only root")
    return begin


def test_a_folder_is_served_where_nothing_can_be_written(read_only_machine: list[str], runs: Path) -> None:
    before = sorted(path.stat().st_mtime_ns for path in runs.rglob("*"))
    command = [
        *read_only_machine,
        sys.executable,
        "-m",
        "easyllm",
        "serve",
        runs,
        "serve.port=" + str(address.free_port()),
    ]
    server = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        url = server.stdout.readline().strip()
        assert url, server.stderr.read() if server.stderr else ""
        for _ in range(300):
            if httpx.get(f"{url}/health", trust_env=False, timeout=60).status_code == 200:
                break
            assert server.poll() is None, server.stderr.read() if server.stderr else ""
        models = httpx.get(f"{url}/v1/models", trust_env=False).json()["data"]
        assert [model["id"] for model in models] == ["new"]
        body = {"inputs": "a", "parameters": {"max_new_tokens": 3}}
        answer = httpx.post(f"{url}/generate", json=body, trust_env=False, timeout=60)
        assert answer.status_code == 200, answer.text
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=90) == 0
    finally:
        server.kill()
        server.wait()
    assert sorted(path.stat().st_mtime_ns for path in runs.rglob("*")) == before
    assert json.loads((runs / "new" / "merge" / "manifest.json").read_text("utf-8"))["kind"] == "model"
