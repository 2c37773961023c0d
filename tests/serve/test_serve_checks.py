"""What serve refuses, before anything is loaded and when it loads."""

import json
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.artifact import Manifest, write_whole
from easyllm.core.chat import load_tokenizer, seal
from easyllm.core.errors import UserError
from easyllm.core.stage import Job
from easyllm.serve import address, checks, plan
from easyllm.serve.chat import chat
from easyllm.serve.config import ServeConfig
from easyllm.serve.door.requestlog import RequestLog
from easyllm.serve.server import parse

BROKEN = Path(__file__).parent.parent / "broken"
MakeJob = Callable[..., Job[ServeConfig]]


def codes(job: Job[ServeConfig]) -> list[str]:
    return [problem.code for problem in checks.check(job)]


def test_a_good_model_passes(serve_model: Path, serve_job: MakeJob) -> None:
    assert codes(serve_job(serve_model)) == []


def test_checking_and_planning_load_neither_torch_nor_transformers() -> None:
    code = "import sys, easyllm.serve.checks, easyllm.serve.plan, easyllm.serve.chat; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not [name for name in ("'torch'", "'transformers'", "'openai'", "'starlette'") if name in loaded]


def test_a_port_taken_by_a_stranger_is_refused(serve_model: Path, serve_job: MakeJob) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert codes(serve_job(serve_model, port=other.getsockname()[1])) == ["SERVE-001"]


def test_the_broken_recipes_that_need_a_running_machine(easyllm: Any) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = f"serve.port={other.getsockname()[1]}"
        for verb in ("check", "serve"):
            assert easyllm(verb, BROKEN / "SERVE-001.yaml", port, expect=2).stderr.startswith("SERVE-001")
    told = easyllm("serve", BROKEN / "SERVE-004.yaml", f"serve.port={address.free_port()}", expect=2).stderr
    assert "SERVE-004" in told
    assert "Traceback" not in told


def test_our_own_server_left_running_is_no_mistake(served: Any, serve_model: Path, serve_job: MakeJob) -> None:
    port = int(served.url.rsplit(":", 1)[1])
    assert codes(serve_job(serve_model, port=port)) == []


def test_an_address_of_another_machine_is_refused(serve_model: Path, serve_job: MakeJob) -> None:
    assert codes(serve_job(serve_model, host="203.0.113.7", open_without_keys=True)) == ["SERVE-007"]


@pytest.mark.parametrize("host", ["a..b", "a" * 64, "a\0b", ".x"])
def test_a_name_that_no_machine_can_have_is_refused(serve_model: Path, serve_job: MakeJob, host: str) -> None:
    assert codes(serve_job(serve_model, host=host, open_without_keys=True)) == ["SERVE-007"]


def test_a_home_that_nobody_has_is_not_found(serve_model: Path, serve_job: MakeJob) -> None:
    nowhere = "~no-such-user-of-easyllm/x"
    assert codes(serve_job(serve_model, keys_file=nowhere)) == ["SERVE-040"]
    for setting, code in (({"adapters": {"a": nowhere}}, "INPUT-001"), ({"gguf": nowhere}, "BASE-001")):
        with pytest.raises(UserError, match=f"{code} .*{nowhere}"):
            serve_job(serve_model, **setting)
    with pytest.raises(UserError, match=f"BASE-001 .*{nowhere}"):
        serve_job(Path(nowhere))


@pytest.mark.parametrize("where", ["~no-such-user-of-easyllm/x", "a\0b"])
def test_a_request_log_that_cannot_be_is_refused(where: str) -> None:
    with pytest.raises(UserError, match="SERVE-047"):
        RequestLog(where)


def test_words_that_begin_with_a_dash_reach_the_server(serve_model: Path, serve_job: MakeJob) -> None:
    job = serve_job(
        serve_model, name="-x", keys_file="-keys", key_variable="-KEYS", host_names=("-h",), request_log="--log",
        engine="remote", remote="http://vllm:8000/v1", remote_key_variable="-KEY",
    )  # fmt: skip
    given = parse(shlex.split(plan.plan(job).commands[0])[3:])
    assert (given.name, given.key_variable, given.host_name) == ("-x", "-KEYS", ["-h"])
    assert (given.keys_file, given.request_log, given.remote_key_variable) == (Path("-keys"), "--log", "-KEY")


def test_a_model_without_a_chat_template_is_refused(serve_model: Path, serve_job: MakeJob, tmp_path: Path) -> None:
    bare = shutil.copytree(serve_model, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    assert codes(serve_job(bare)) == ["SERVE-002"]


def test_a_model_that_would_never_stop_is_refused(serve_model: Path, serve_job: MakeJob, tmp_path: Path) -> None:
    endless = shutil.copytree(serve_model, tmp_path / "endless")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"):
        data = json.loads((endless / name).read_text("utf-8"))
        for key in ("eos_token_id", "eos_token", "added_tokens", "extra_special_tokens"):
            data.pop(key, None)
        (endless / name).write_text(json.dumps(data), "utf-8")
    assert codes(serve_job(endless)) == ["SERVE-003"]


def test_limits_beyond_the_model_or_each_other_are_refused(serve_model: Path, serve_job: MakeJob) -> None:
    assert codes(serve_job(serve_model, max_total_tokens=257)) == ["SERVE-006"]
    assert codes(serve_job(serve_model, max_total_tokens=64, max_input_tokens=64)) == ["SERVE-005"]
    assert codes(serve_job(serve_model, max_total_tokens=256, max_input_tokens=255)) == []


def test_a_template_edited_after_training_is_refused(serve_model: Path, tmp_path: Path) -> None:
    from easyllm.serve.engines.loading import load_words

    model = shutil.copytree(serve_model, tmp_path / "merge")
    record = seal(load_tokenizer(model))
    manifest = Manifest(
        "model", "merge", "demo", "", "", {}, {}, [], {}, 1, records={"template": record}
    )  # fmt: skip
    write_whole(model / "manifest.json", manifest.as_json())
    assert load_words(model)[2] == [0, 2]
    template = model / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("assistant\n", "assistant \n"), "utf-8")
    with pytest.raises(UserError, match="SERVE-004"):
        load_words(model)


def test_the_plan_has_the_command_and_the_size_of_the_cache(serve_model: Path, serve_job: MakeJob) -> None:
    made = plan.plan(serve_job(serve_model, max_total_tokens=128, max_concurrent_requests=4, name="it"))
    assert made.figures["prompt and answer (tokens)"] == 128
    assert made.memory_bytes >= 4 * 128 * 2 * 2 * 2 * 12 * 4  # layers, keys and values, heads, head size, fp32
    assert f"easyllm.serve.server --model {serve_model} --name it" in made.commands[0]


def test_the_plan_counts_the_weights_of_every_shard(serve_model: Path, serve_job: MakeJob, tmp_path: Path) -> None:
    whole = plan.plan(serve_job(serve_model)).memory_bytes
    cut = shutil.copytree(serve_model, tmp_path / "cut")
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").unlink()
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (cut / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}), "utf-8")
    for name in names.values():
        (cut / name).write_bytes(weights)
    assert plan.plan(serve_job(cut)).memory_bytes == whole + len(weights)


def test_chat_with_nobody_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"CHAT-001 .*easyllm serve"):
        chat(f"http://127.0.0.1:{address.free_port()}", None, 8, 0)
    with pytest.raises(UserError, match="CHAT-002"):
        chat(str(tmp_path), None, 8, 0)
