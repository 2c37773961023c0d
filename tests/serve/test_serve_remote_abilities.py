"""What the engine behind ours can do is tried, not assumed: a server in the shapes that vLLM v0.29's source writes.

The stand-in chooses its tokens by the rules asked for, so that an ability that is claimed is also one that works.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.chat import load_tokenizer
from easyllm.serve.contract import Abilities, EngineFailed, Grammar, Remote, Sampling, Token
from easyllm.serve.engines.wire import request_body
from easyllm.serve.limits import Limits
from strangers import Stranger, handler

LIMITS = Limits(total_tokens=200, input_tokens=150, concurrent_requests=3)
CHOICES = {80: -0.5, 81: -1.25, 82: -2.5, 83: -4.0}


class VllmLike(Stranger):
    """Answers with the likeliest token of ``CHOICES`` again and again, as biased, or with digits where asked."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.lacks: set[str] = set()
        """Fields that it takes and does nothing about, as vLLM does with what it does not know."""
        self.refuses: set[str] = set()
        self._tokenizer = tokenizer

    def has(self, body: Any, name: str) -> Any:
        return body.get(name) if name not in self.lacks else None

    def events(self, body: Any) -> Iterator[Any]:
        biases = self.has(body, "logit_bias") or {}
        token = max(CHOICES, key=lambda number: CHOICES[number] + float(biases.get(str(number), 0)))
        ids = [token] * body["max_tokens"]
        if self.has(body, "structured_outputs"):
            ids = [*self._tokenizer.encode("42", add_special_tokens=False), body["stop_token_ids"][0]]
        self.answer = ids[: body["max_tokens"]]
        if body["logprobs"] and "any answer" in self.lacks:
            return
        for event in super().events(body):
            for choice in event["choices"]:
                if body["logprobs"]:
                    choice["logprobs"] |= self.named(body, choice["token_ids"])
                yield event
            if not event["choices"]:
                yield event

    def named(self, body: Any, ids: list[int]) -> Any:
        """vLLM puts the chosen token first, then the best, the chosen one among them or not."""
        as_ids = self.has(body, "return_tokens_as_token_ids")
        best = sorted(CHOICES, key=lambda number: -CHOICES[number])[: body["logprobs"]]
        told = []
        for token in ids:
            values = {token: CHOICES.get(token, -9.0)} | {number: CHOICES[number] for number in best}
            told.append({f"token_id:{number}" if as_ids else "?" * number: value for number, value in values.items()})
        return {"token_logprobs": [CHOICES.get(token, -9.0) for token in ids], "top_logprobs": told}

    def whole(self, body: Any) -> Any:
        """A completion that is not streamed, as it is asked for scores."""
        places: list[Any] = [None]
        for number in body["prompt"][1:]:
            best = {str(token): {"logprob": value, "rank": 1, "decoded_token": "?"} for token, value in CHOICES.items()}
            places.append({str(number): {"logprob": -7.0, "rank": 9, "decoded_token": "?"}} | best)
        choice = {"index": 0, "text": "", "finish_reason": "length", "token_ids": [80]}
        if "prompt_logprobs" not in self.lacks:
            choice["prompt_logprobs"] = places
        return {"id": "cmpl-1", "object": "text_completion", "choices": [choice]}


def vllm_handler(stranger: VllmLike) -> Any:
    class Handler(handler(stranger)):  # type: ignore[misc]  # a class made for one server
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stranger.asked.append(body)
            refused = sorted(stranger.refuses & body.keys())
            if refused:
                self.say(400, json.dumps({"error": {"message": f"{refused[0]} is not supported"}}).encode())
            elif not body.get("stream"):
                self.say(200, json.dumps(stranger.whole(body)).encode())
            else:
                lines = [f"data: {json.dumps(entry)}\n\n" for entry in stranger.events(body)]
                self.say(200, "".join([*lines, "data: [DONE]\n\n"]).encode(), "text/event-stream")

    return Handler


@pytest.fixture
def vllm(serve_model: Path) -> Iterator[VllmLike]:
    found = VllmLike(load_tokenizer(serve_model))
    server = ThreadingHTTPServer(("127.0.0.1", 0), vllm_handler(found))
    found.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture
def meet(vllm: VllmLike, serve_model: Path) -> Iterator[Callable[[], Any]]:
    from easyllm.serve.engines.remote import load_remote

    engines = []

    def call() -> Any:
        engines.append(load_remote(serve_model, "base", LIMITS, Remote(vllm.url)).voice.engine)
        return engines[-1]

    yield call
    for engine in engines:
        engine.stop()


def said(engine: Any, sampling: Sampling, tokens: int = 2) -> list[Token]:
    async def ask() -> list[Token]:
        return [token async for token in engine.generate([5, 6], tokens, sampling)]

    return asyncio.run(ask())


def test_a_server_that_can_everything_is_asked_for_everything(
    meet: Callable[[], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert meet().abilities == Abilities(penalties=True, likeliest=True, grammar=True, score=True)
    assert "it has shown: penalties, likeliest, grammar, score" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "ability"),
    [("logit_bias", "penalties"), ("return_tokens_as_token_ids", "likeliest"), ("structured_outputs", "grammar"),
     ("prompt_logprobs", "score")],
)  # fmt: skip
@pytest.mark.parametrize("how", ["lacks", "refuses"])
def test_what_a_server_ignores_or_refuses_is_no_ability(
    vllm: VllmLike, meet: Callable[[], Any], field: str, ability: str, how: str
) -> None:
    getattr(vllm, how).add(field)
    found = meet().abilities
    assert [name for name in ("penalties", "likeliest", "grammar", "score") if not getattr(found, name)] == [ability]


def test_a_server_that_falls_silent_when_asked_for_likely_tokens_is_used_without_them(
    vllm: VllmLike, meet: Callable[[], Any]
) -> None:
    vllm.lacks.add("any answer")
    assert meet().abilities == Abilities(penalties=True, grammar=True, score=True)


def test_likely_tokens_come_by_their_ids_best_first(meet: Callable[[], Any]) -> None:
    best = ((80, -0.5), (81, -1.25), (82, -2.5))
    assert said(meet(), Sampling(likeliest=3)) == [Token(80, -0.5, best)] * 2
    chosen = said(meet(), Sampling(likeliest=2, logit_bias=((83, 50.0),)))[0]
    assert chosen == Token(83, -4.0, best[:2])  # vLLM tells three: the two likeliest and the chosen one


def test_given_tokens_are_scored_with_the_likeliest_at_their_places(meet: Callable[[], Any]) -> None:
    assert asyncio.run(meet().score([5, 6, 7], 2)) == [(None, None), *[(-7.0, {80: -0.5, 81: -1.25})] * 2]


def test_settings_and_grammars_go_over_in_vllms_words() -> None:
    asked = Sampling(
        min_p=0.1, repetition_penalty=1.2, frequency_penalty=0.5, presence_penalty=-0.5, logit_bias=((7, 3.0),),
        likeliest=4, grammar=Grammar("json_schema", '{"type": "object"}'),
    )  # fmt: skip
    body = request_body("m", [1], 5, asked, [0])
    assert {name: body[name] for name in ("min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")} == {
        "min_p": 0.1, "repetition_penalty": 1.2, "frequency_penalty": 0.5, "presence_penalty": -0.5,
    }  # fmt: skip
    assert body["logit_bias"] == {"7": 3.0}
    assert (body["logprobs"], body["return_tokens_as_token_ids"]) == (4, True)
    assert body["structured_outputs"] == {"json": {"type": "object"}}
    kinds = {"json_object": {"json_object": True}, "regex": {"regex": ""}}
    for kind, words in kinds.items():
        given: Any = Grammar(kind, "")  # type: ignore[arg-type]  # a plain str out of a dict
        assert request_body("m", [1], 5, Sampling(grammar=given), [0])["structured_outputs"] == words
    with pytest.raises(EngineFailed, match="typical_p") as refused:
        request_body("m", [1], 5, Sampling(typical_p=0.9), [0])
    assert refused.value.status == 422


def test_a_grammar_that_it_cannot_keep_is_the_clients_mistake(vllm: VllmLike, meet: Callable[[], Any]) -> None:
    engine = meet()
    vllm.refuses.add("structured_outputs")
    with pytest.raises(EngineFailed, match="structured_outputs is not supported") as refused:
        said(engine, Sampling(grammar=Grammar("regex", "(")))
    assert (refused.value.status, engine.trouble) == (422, None)
    with pytest.raises(EngineFailed, match="not JSON"):
        said(engine, Sampling(grammar=Grammar("json_schema", "{")))
