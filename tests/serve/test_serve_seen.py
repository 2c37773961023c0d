"""What can be seen of a running server: metrics, the request log, ids, and what the weights are made of."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from easyllm.core.artifact import Manifest
from easyllm.serve.door.access import Access
from serving_doors import Doored, doored, wait_until

MANIFEST = Manifest(
    kind="model", stage="merge", recipe="demo", fingerprint="f" * 64, digest="d" * 64, config={"secret": "/home/me"},
    inputs={"base": {"ref": "finetune", "path": "/home/me/runs", "digest": "b" * 64}},
    outputs=[{"path": "model.safetensors", "bytes": 1, "sha256": "0"}], versions={"torch": "2"}, seed=1,
    records={"template": {"hash": "t" * 64}}, started="2026-01-01", ended="2026-01-02",
)  # fmt: skip


@pytest.fixture(scope="module")
def seen(served: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doored]:
    log = tmp_path_factory.mktemp("seen") / "requests.jsonl"
    about = {"manifest": MANIFEST}
    with doored(served.desk.loaded, Access(request_log=str(log)), about=about, queued_requests=4) as door:
        yield door


def numbers(door: Doored) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of /metrics, by name and labels."""
    answer = door.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(answer.text))
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def lines(door: Doored) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(str(door.desk.access.request_log)).read_text().splitlines()]


def moved(door: Doored, act: Any) -> dict[str, float]:
    """What ``act`` added to each sample that changed, under name{label values}."""
    before = numbers(door)
    act()
    assert wait_until(lambda: door.desk.in_flight == 0)
    after = numbers(door)
    plain = {}
    for (name, labels), value in after.items():
        change = value - before.get((name, labels), 0.0)
        if change:
            plain[name + ("{" + ",".join(v for _, v in labels) + "}" if labels else "")] = change
    return plain


def test_numbers_move_as_requests_do(seen: Doored) -> None:
    answer: dict[str, Any] = {}

    def ask() -> None:
        answer.update(seen.ask(json={"inputs": "a", "parameters": {"max_new_tokens": 9, "details": True}}).json())

    found = moved(seen, ask)
    tokens = answer["details"]["generated_tokens"]
    assert found["easyllm_answer_tokens_total"] == found["tgi_request_generated_tokens_sum"] == tokens
    assert found["easyllm_prompt_tokens_total"] == found["tgi_request_input_length_sum"] >= 1
    assert found["easyllm_requests_total{/generate,200}"] == 1
    assert found["easyllm_first_token_seconds_count"] == 1
    assert found.get("easyllm_inter_token_seconds_count", 0) == tokens - 1
    assert found["tgi_request_max_new_tokens_sum"] == 9
    for name in ("easyllm_queue_seconds", "easyllm_request_seconds", "tgi_request_duration",
                 "tgi_request_validation_duration", "tgi_request_queue_duration", "tgi_request_inference_duration",
                 "tgi_request_mean_time_per_token_duration"):  # fmt: skip
        assert found[f"{name}_count"] == 1, name
    assert found["tgi_request_count"] == found["tgi_request_success"] == 1
    assert 0 < found["easyllm_first_token_seconds_sum"] <= found["easyllm_request_seconds_sum"]


def test_refusals_and_paths_that_clients_invent_are_counted_under_few_names(seen: Doored) -> None:
    def ask() -> None:
        assert seen.ask(json={"inputs": ""}).status_code == 422
        assert seen.get("/some/path/of/theirs").status_code == 404

    found = moved(seen, ask)
    assert found["easyllm_requests_total{/generate,422}"] == 1
    assert found["easyllm_requests_total{other,404}"] == 1
    assert found["tgi_request_failure{validation}"] == 1
    assert "tgi_request_success" not in found
    assert not any("theirs" in name for name in found)


def test_a_grammar_that_is_none_is_no_failure_of_the_engine(seen: Doored) -> None:
    def ask() -> None:
        grammar = {"type": "regex", "value": "("}
        answer = seen.ask(json={"inputs": "a", "parameters": {"max_new_tokens": 2, "grammar": grammar}})
        assert answer.status_code == 422

    found = moved(seen, ask)
    assert found["easyllm_requests_total{/generate,422}"] == 1
    assert "easyllm_engine_failures_total" not in found


def test_the_queue_is_seen_while_it_stands(seen: Doored) -> None:
    from concurrent.futures import ThreadPoolExecutor

    queue = seen.desk.queue
    restarts = seen.desk.model.voice.engine.restarts  # other tests ask this engine too, and one has its worker die
    queue.running += 3
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(seen.ask, tokens=1) for _ in range(2)]
        try:
            assert wait_until(lambda: queue.waiting == 2)
            now = {name: value for (name, _), value in numbers(seen).items()}
        finally:
            loop = queue._waiting[0][0].get_loop()
            for _ in range(3):
                loop.call_soon_threadsafe(queue.leave)
        assert [one.result().status_code for one in asked] == [200, 200]
    assert now["easyllm_queue_requests"] == now["tgi_queue_size"] == 2
    assert now["easyllm_running_requests"] == 3
    assert now["easyllm_batch_requests"] == now["tgi_batch_current_size"] == 0
    assert now["easyllm_ready"] == 1
    assert now["easyllm_engine_restarts_total"] == restarts


def test_one_line_is_written_for_each_request_and_no_word_of_it(seen: Doored) -> None:
    before = len(lines(seen))
    answer = seen.ask("/v1/chat/completions", json={"messages": [{"role": "user", "content": "SECRETWORD"}]},
                      headers={"X-Request-Id": "mine-1"})  # fmt: skip
    assert answer.headers["x-request-id"] == "mine-1"
    assert seen.ask(json={"inputs": ""}, headers={"X-Request-Id": "bad id\t{}"}).status_code == 422
    seen.get("/health")
    assert wait_until(lambda: len(lines(seen)) == before + 2)
    good, bad = lines(seen)[before:]
    usage = answer.json()["usage"]
    assert (good["id"], good["route"], good["status"], good["model"]) == (
        "mine-1",
        "/v1/chat/completions",
        200,
        "tiny-chat",
    )
    assert (good["prompt_tokens"], good["answer_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert good["finish_reason"] in ("length", "eos_token")
    assert 0 <= good["queue_seconds"] <= good["first_token_seconds"] <= good["total_seconds"]
    assert (bad["status"], bad["finish_reason"], bad["first_token_seconds"]) == (422, None, None)
    assert bad["id"] != "bad id\t{}"
    assert "SECRETWORD" not in Path(str(seen.desk.access.request_log)).read_text()


def test_a_stream_that_is_dropped_is_logged_as_cancelled(seen: Doored, long_babble: Any) -> None:
    before = len(lines(seen))

    def ask() -> None:
        with httpx.stream("POST", f"{seen.url}/generate_stream", json=long_babble[0], trust_env=False) as answer:
            next(answer.iter_lines())

    found = moved(seen, ask)
    assert wait_until(lambda: len(lines(seen)) == before + 1)
    assert lines(seen)[-1]["finish_reason"] == "cancelled"
    assert found["easyllm_cancelled_total"] == 1
    assert seen.desk.running == 0


def test_words_are_logged_only_when_asked_for(served: Any, tmp_path: Path) -> None:
    access = Access(request_log=str(tmp_path / "log"), log_prompts=True)
    with doored(served.desk.loaded, access) as door:
        said = door.ask(json={"inputs": "the sea", "parameters": {"max_new_tokens": 5}}).json()["generated_text"]
        assert wait_until(lambda: len(lines(door)) == 1)
        [line] = lines(door)
    assert line["prompts"] == ["the sea"]
    assert line["answers"] == [said]


def test_info_says_what_the_weights_are_made_of_and_no_path(seen: Doored, served: Any) -> None:
    info = seen.get("/info").json()
    assert info["engine"] == "embedded"
    assert info["model_dtype"] == "float32"
    assert info["uptime_seconds"] > 0
    assert info["max_queued_requests"] == 4
    assert info["manifest"]["inputs"] == {"base": "b" * 64}
    assert info["manifest"]["template_hash"] == "t" * 64
    assert len(info["lineage_digest"]) == 64
    assert "/home/me" not in json.dumps(info)
    from dataclasses import replace

    from easyllm.serve.deployment import lineage_digest

    other = replace(MANIFEST, inputs={"base": {"digest": "c" * 64}})
    assert lineage_digest(other) != info["lineage_digest"] == lineage_digest(MANIFEST)
    with doored(served.desk.loaded) as stranger:
        assert stranger.get("/info").json()["lineage_digest"] is None
