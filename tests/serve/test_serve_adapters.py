"""A base and its adapters in one server: the one that a request names answers it, whatever else is in the batch."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from easyllm.serve.adapters.layers import number_of, request_id, salted
from easyllm.serve.contract import EngineFailed, Sampling
from serving_adapters import TEXTS, TOKENS, WithAdapters, serving
from trained_adapters import alone

WHO = (None, "red", "blue")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def both(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WithAdapters]:
    """The server once of a llama, once of a GPT-2, whose linear layers are stored transposed."""
    with serving(tmp_path_factory.mktemp(request.param), request.param) as found:
        yield found


def ends(server: WithAdapters) -> list[int]:
    found: list[int] = server.desk.model.ends
    return found


def test_base_and_adapters_in_one_batch_say_what_peft_says_with_each_alone(both: WithAdapters) -> None:
    asks = [(ids, who) for ids in both.prompts for who in WHO]
    said = dict(zip([(tuple(ids), who) for ids, who in asks], both.together(asks), strict=True))
    answers: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for who in WHO:
        for ids, (answer, logprobs) in zip(
            both.prompts, alone(both.base, both.paths[who], both.prompts, TOKENS, ends(both)), strict=True
        ):
            mine = said[tuple(ids), who]
            assert [token.id for token in mine] == answer
            assert [token.logprob for token in mine] == pytest.approx(logprobs, abs=1e-4)
            answers.setdefault(tuple(ids), set()).add(tuple(answer))
    assert all(len(different) == 3 for different in answers.values())  # so a mix-up cannot pass


def test_the_same_long_prompt_shares_no_keys_and_values_across_adapters(both: WithAdapters) -> None:
    long = both.prompts[1]
    assert len(long) > 2 * 64
    wanted = {who: alone(both.base, both.paths[who], [long], TOKENS, ends(both))[0][0] for who in WHO}
    for who in (None, "red", None, "blue", "red"):  # one after another: each finds the pages of those before
        assert [token.id for token in both.together([(long, who)])[0]] == wanted[who]


def test_given_tokens_are_scored_by_the_adapter_that_is_named(both: WithAdapters) -> None:
    for who in WHO:
        [(answer, logprobs)] = alone(both.base, both.paths[who], both.prompts[:1], TOKENS, ends(both))
        scored = asyncio.run(both.engine.score([*both.prompts[0], *answer], 0, who))
        assert [value for value, _ in scored[len(both.prompts[0]) :]] == pytest.approx(logprobs, abs=1e-4)


def test_both_dialects_choose_by_name_and_tell_which_there_are(both: WithAdapters) -> None:
    cards = {card["id"]: card for card in both.get("/v1/models")["data"]}
    assert list(cards) == ["tiny", "blue", "red"]
    assert (cards["tiny"]["parent"], cards["red"]["parent"]) == (None, "tiny")
    assert cards["red"]["root"] == str(both.paths["red"])
    assert both.get("/v1/models/red") == cards["red"]
    texts = set()
    for who in WHO:
        body = {"prompt": TEXTS[0], "max_tokens": 12, "temperature": 0}
        answer = both.post("/v1/completions", body | {"model": who or "tiny"}).json()
        assert answer["model"] == (who or "tiny")
        settings = {"max_new_tokens": 12} | ({"adapter_id": who} if who else {})
        hub = both.post("/generate", {"inputs": TEXTS[0], "parameters": settings}).json()
        assert hub["generated_text"] == answer["choices"][0]["text"]
        chat = {"model": who, "messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 8}
        assert both.post("/v1/chat/completions", chat).json()["model"] == (who or "tiny")
        texts.add(hub["generated_text"])
    assert len(texts) == 3


def test_an_unknown_name_is_refused_and_never_answered_by_another_model(both: WithAdapters) -> None:
    refused = both.post("/v1/completions", {"model": "green", "prompt": "a"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert "`tiny`, `blue`, `red`" in refused.json()["error"]["message"]
    refused = both.post("/generate", {"inputs": "a", "parameters": {"adapter_id": "green"}})
    assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")
    assert both.get("/v1/models/green")["error"]["code"] == "model_not_found"
    with pytest.raises(EngineFailed, match="green"):
        both.together([([5, 6], "green")])


def test_an_adapter_comes_and_goes_while_others_are_answered(both: WithAdapters) -> None:
    asks = [(both.prompts[0], who) for who in WHO]
    wanted = [[token.id for token in answer] for answer in both.together(asks)]
    stop, wrong, rounds = threading.Event(), [], 0

    def load_on() -> None:
        nonlocal rounds
        while not stop.is_set():
            rounds += 1
            if [[token.id for token in answer] for answer in both.together(asks)] != wanted:
                wrong.append(rounds)

    others = threading.Thread(target=load_on)
    others.start()
    try:
        [(answer, _)] = alone(both.base, both.paths["green"], both.prompts[:1], TOKENS, ends(both))
        for _ in range(2):
            come = both.post("/v1/load_lora_adapter", {"lora_name": "green", "lora_path": "green"})
            assert come.status_code == 200, come.text
            assert (come.status_code, come.text) == (200, "Success: LoRA adapter 'green' added successfully.")
            assert [token.id for token in both.together([(both.prompts[0], "green")])[0]] == answer
            gone = both.post("/v1/unload_lora_adapter", {"lora_name": "green"})
            assert (gone.status_code, gone.text) == (200, "Success: LoRA adapter 'green' removed successfully.")
            assert both.post("/v1/completions", {"model": "green", "prompt": "a"}).status_code == 404
    finally:
        stop.set()
        others.join()
    assert rounds > 1
    assert wrong == []


def test_unloading_waits_for_the_answers_that_use_it(both: WithAdapters) -> None:
    both.post("/v1/load_lora_adapter", {"lora_name": "green", "lora_path": str(both.paths["green"])})
    [(answer, _)] = alone(both.base, both.paths["green"], both.prompts[:1], TOKENS, ends(both))
    gone = threading.Event()

    async def half_way() -> list[int]:
        found = []
        async for token in both.engine.generate(both.prompts[0], TOKENS, Sampling(), "green"):
            found.append(token.id)
            if len(found) == 2:
                threading.Thread(target=lambda: (both.desk.model.adapters.unload("green"), gone.set())).start()
                await asyncio.sleep(0.2)
            if len(found) < len(answer):
                assert not gone.is_set()
        return found

    assert asyncio.run(half_way()) == answer
    assert gone.wait(60)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"lora_name": "x", "lora_path": "../red"}, 400, "below shelf/"),
        ({"lora_name": "x", "lora_path": "."}, 400, "below shelf/"),
        ({"lora_name": "x", "lora_path": "/etc"}, 400, "below shelf/"),
        ({"lora_name": "x", "lora_path": "nothing\u0000"}, 400, "below shelf/"),
        ({"lora_name": "x", "lora_path": "out"}, 400, "below shelf/"),
        ({"lora_name": "x", "lora_path": "out-by-file"}, 400, "below shelf/"),
        ({"lora_name": "x", "lora_path": "pickled"}, 400, "SERVE-050"),
        ({"lora_name": "x/y", "lora_path": "green"}, 400, "lora_name"),
        ({"lora_name": "x"}, 400, "lora_path"),
        ({"lora_name": "x", "lora_path": "green", "load_inplace": True}, 400, "load_inplace"),
        ({"lora_name": "red", "lora_path": "green"}, 409, "already been loaded"),
        ({"lora_name": "tiny", "lora_path": "green"}, 409, "base model"),
        ({"lora_name": "tgi", "lora_path": "green"}, 409, "base model"),
    ],
)
def test_the_admin_route_refuses_what_it_must(
    both: WithAdapters, body: dict[str, Any], status: int, words: str
) -> None:
    shelf = both.shelf_folder
    if not (shelf / "out").is_symlink():
        (shelf / "out").symlink_to(both.paths["red"] or "")
        (shelf / "out-by-file").mkdir()
        (shelf / "pickled").mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (shelf / "out-by-file" / name).symlink_to((both.paths["red"] or Path()) / name)
        (shelf / "pickled" / "adapter_config.json").write_bytes((shelf / "green" / "adapter_config.json").read_bytes())
        (shelf / "pickled" / "adapter_model.bin").write_bytes(b"\x80")
    refused = both.post("/v1/load_lora_adapter", body)
    assert refused.status_code == status
    assert words in refused.json()["error"]["message"]
    assert str(shelf) not in refused.text
    assert [card.name for card in both.desk.model.adapters.cards()] == ["blue", "red"]


def test_an_engine_that_dies_while_it_proves_an_adapter_is_not_the_adapters_fault(
    both: WithAdapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(name: str, path: Path) -> None:
        raise EngineFailed("the worker has died", 500)

    monkeypatch.setattr(both.desk.model.adapters, "load", die)
    refused = both.post("/v1/load_lora_adapter", {"lora_name": "green", "lora_path": "green"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["message"] == "the worker has died"


def test_unloading_what_is_not_there_is_404(both: WithAdapters) -> None:
    assert both.post("/v1/unload_lora_adapter", {"lora_name": "green"}).status_code == 404
    assert both.post("/v1/unload_lora_adapter", {"lora_name": "tiny"}).status_code == 404


def test_without_the_admin_setting_there_are_no_such_routes(served: Any) -> None:
    for verb in ("load", "unload"):
        body = {"lora_name": "x", "lora_path": "x"}
        answer = httpx.post(f"{served.url}/v1/{verb}_lora_adapter", json=body, trust_env=False, timeout=60)
        assert answer.status_code == 404
    refused = httpx.post(
        f"{served.url}/generate", json={"inputs": "a", "parameters": {"adapter_id": "x"}}, trust_env=False, timeout=60
    )
    assert (refused.status_code, "none" in refused.json()["error"]) == (422, True)


def test_a_request_carries_its_adapter_and_pages_are_told_apart_by_it() -> None:
    assert (number_of(request_id(3, 0)), number_of(request_id(3, 12))) == (0, 12)
    ids = [7, 8, 9]
    seen = {tuple(salted(ids, number)) for number in (0, 1, 2, 2046, 2047, 2048, 4094, 1_000_000)}
    assert len(seen) == 8
    assert max(max(each) for each in seen) < 2**31  # they are hashed as 32-bit integers
