"""A server of no model that keeps the whole contract, or breaks one named part of it: what a self-test must notice.

Its words come from a list; nothing here is part of easyllm's server.
"""

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from easyllm.serve.address import listen

WORDS = "The| sea| is| wide| and| the| old| ship| goes| slowly| over| it| until| harbour| lights| come| near"
TOKENS = WORDS.split("|")
GOOD_JSON = '{"calm": "yes"}'
KEY = "the-key"
LONGEST = 500
Faults = frozenset[str]


def openai_error(status: int, message: str, kind: str = "invalid_request_error") -> Response:
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": None}}, status)


def tgi_error(message: str) -> Response:
    return JSONResponse({"error": message, "error_type": "validation"}, 422)


def say(most: int, temperature: float = 0, seed: int = 0, place: int = 0) -> list[str]:
    """At most so many tokens, shuffled by the seed where they are sampled."""
    found = list(TOKENS)
    if temperature:
        random.Random(seed * 1000 + place).shuffle(found)
    return found[:most]


def stopped(tokens: list[str], stops: list[str], faults: Faults) -> tuple[list[str], bool]:
    """The tokens with their text cut before the first stop string."""
    text = "".join(tokens)
    places = [text.index(stop) for stop in stops if stop in text]
    if not places or "stop string" in faults:
        return tokens, False
    end = min(places)
    found: list[str] = []
    for token in tokens:
        found.append(token[: end - len("".join(found))])
        if len("".join(found)) == end:
            break
    return found, True


class FaultyServer:
    """The routes; ``faults`` are names of checks, and of what else may go wrong."""

    def __init__(self, faults: Faults, key: str | None) -> None:
        self.faults, self.key = faults, key
        self.cut = False

    def routes(self) -> list[Route]:
        found = [
            Route("/v1/models", self.models),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/info", self.info),
            Route("/generate", self.generate, methods=["POST"]),
            Route("/generate_stream", self.generate_stream, methods=["POST"]),
            Route("/", self.root, methods=["POST"]),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
        ]
        missing = {fault.removeprefix("no ") for fault in self.faults if fault.startswith("no ")}
        return [route for route in found if route.path not in missing]

    def locked(self, request: Request) -> Response | None:
        """The refusal of a request without the key."""
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        if "keys" in self.faults and request.url.path == "/generate":
            return None
        return openai_error(401, "no key", "authentication_error")

    async def models(self, request: Request) -> Response:
        cards = [] if "models" in self.faults else [{"id": "words", "object": "model", "max_model_len": LONGEST}]
        return self.locked(request) or JSONResponse({"object": "list", "data": cards})

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        return self.locked(request) or self.refused(body) or self.answered(body)

    def refused(self, body: dict[str, Any]) -> Response | None:
        if self.cut and "disconnect" in self.faults:
            return openai_error(500, "the engine is stuck", "server_error")
        if not isinstance(body["messages"], list):
            good = openai_error(400, "messages must be a list")
            return JSONResponse({"detail": "bad"}, 400) if "error shape" in self.faults else good
        if body["model"] != "words" and "unknown model" not in self.faults and "models" not in self.faults:
            return openai_error(404, "no such model", "not_found_error")
        if len(body["messages"][0]["content"].split()) > LONGEST:
            status = 500 if "too long" in self.faults else 400
            return openai_error(status, "too long")
        if "no_such_field_easyllm" in body:
            return openai_error(500 if "unknown field" in self.faults else 400, "no such field")
        return None

    def answered(self, body: dict[str, Any]) -> Response:
        if body["max_tokens"] == 100 and body.get("stream"):
            self.cut = True
        tokens, finish = self.words_of(body)
        if body.get("stream"):
            return self.chat_stream(body, tokens, finish)
        choices = [
            {"index": place, "message": {"role": "assistant", "content": "".join(tokens)}, "finish_reason": finish}
            for place in range(1 if "n" in self.faults else body.get("n", 1))
        ]
        if "chat" in self.faults:
            choices[0]["message"] = {"role": "user", "content": "".join(tokens)}
        if body.get("logprobs") and "logprobs" not in self.faults:
            choices[0]["logprobs"] = {"content": [self.scored(token) for token in tokens]}
        found = {"choices": choices, "usage": self.usage(tokens)}
        return JSONResponse(found)

    def words_of(self, body: dict[str, Any]) -> tuple[list[str], str]:
        if "response_format" in body:
            return [GOOD_JSON if "json_schema" not in self.faults else '{"calm": "very"}'], "stop"
        seed = random.randrange(1000) if "seed" in self.faults else body.get("seed", 0)
        temperature = 0 if "seed is dead" in self.faults else body.get("temperature", 1)
        most = 7 if "max_tokens" in self.faults and body["max_tokens"] == 3 else body["max_tokens"]
        tokens = say(most, temperature, seed)
        tokens, cut = stopped(tokens, body.get("stop") or [], self.faults)
        return tokens, "stop" if cut or len(tokens) < body["max_tokens"] else "length"

    def usage(self, tokens: list[str]) -> dict[str, int]:
        return {
            "prompt_tokens": 9, "completion_tokens": len(tokens),
            "total_tokens": 9 + len(tokens) + ("usage" in self.faults),
        }  # fmt: skip

    def scored(self, token: str) -> dict[str, Any]:
        best = -0.1 if "logprobs are wrong" not in self.faults else -3.0
        top = [{"token": token, "logprob": best}, {"token": "?", "logprob": -2.5}]
        return {"token": token, "logprob": best, "top_logprobs": top}

    def chat_stream(self, body: dict[str, Any], tokens: list[str], finish: str) -> Response:
        said = tokens[:-1] if "chat stream" in self.faults else tokens
        chunks: list[dict[str, Any]] = [{"choices": [{"delta": {"content": token}}]} for token in said]
        chunks.append({"choices": [{"delta": {}, "finish_reason": finish}]})
        if body.get("stream_options") and "usage of streams" not in self.faults:
            chunks.append({"choices": [], "usage": self.usage(tokens)})
        return self.stream(chunks, None if "end of stream" in self.faults else "[DONE]")

    def stream(self, chunks: list[dict[str, Any]], last: str | None = None) -> Response:
        events = [json.dumps(chunk) for chunk in chunks] + ([last] if last else [])
        return StreamingResponse((f"data: {event}\n\n" for event in events), media_type="text/event-stream")

    async def completions(self, request: Request) -> Response:
        body = await request.json()
        tokens = say(body["max_tokens"])
        if not body.get("stream"):
            return self.locked(request) or JSONResponse({"choices": [{"text": "".join(tokens)}]})
        said = tokens[1:] if "completions" in self.faults else tokens
        return self.locked(request) or self.stream([{"choices": [{"text": token}]} for token in said], "[DONE]")

    async def info(self, request: Request) -> Response:
        found = {"model_id": "words", "max_total_tokens": LONGEST + 50, "max_input_tokens": LONGEST, "version": "0"}
        return JSONResponse(found if "info" not in self.faults else {"model_id": "words"})

    async def generate(self, request: Request) -> Response:
        body = await request.json()
        return self.locked(request) or self.generated(body)

    def generated(self, body: dict[str, Any]) -> Response:
        if not body["inputs"]:
            good = tgi_error("`inputs` cannot be empty")
            return good if "error_type" not in self.faults else JSONResponse({"error": "empty"}, 422)
        given = body["parameters"]
        tokens = say(given["max_new_tokens"])
        if "grammar" in given:
            tokens = ["true"] if "grammar" in self.faults else [GOOD_JSON]
        found: dict[str, Any] = {"generated_text": "".join(tokens)} if "generate" not in self.faults else {"text": "x"}
        if given.get("details") and "details" not in self.faults:
            found["details"] = self.details(tokens)
            if given.get("best_of") and "best_of" not in self.faults:
                found["details"]["best_of_sequences"] = [{"generated_text": "another"}]
        times = {"x-compute-type": "cpu", "x-total-time": "1", "x-inference-time": "1", "x-prompt-tokens": "9"}
        count = "77" if "x- headers" in self.faults else str(len(tokens))
        return JSONResponse(found, headers=times | {"x-generated-tokens": count})

    def details(self, tokens: list[str]) -> dict[str, Any]:
        listed = [{"id": n, "text": text, "logprob": -0.1, "special": False} for n, text in enumerate(tokens)]
        return {"finish_reason": "eos_token", "generated_tokens": len(tokens), "tokens": listed}

    async def generate_stream(self, request: Request) -> Response:
        return self.locked(request) or self.tgi_stream(await request.json(), "generate_stream")

    def tgi_stream(self, body: dict[str, Any], fault: str) -> Response:
        tokens = say(body["parameters"]["max_new_tokens"])
        text = "".join(tokens[1:] if fault in self.faults else tokens)
        chunks: list[dict[str, Any]] = [
            {"token": {"id": n, "text": token, "special": False}, "generated_text": None}
            for n, token in enumerate(tokens)
        ]
        chunks[-1]["generated_text"] = text
        return self.stream(chunks)

    async def root(self, request: Request) -> Response:
        body = await request.json()
        if body.get("stream"):
            return self.locked(request) or self.tgi_stream(body, "POST / streamed")
        found = {"generated_text": "".join(say(body["parameters"]["max_new_tokens"]))}
        return self.locked(request) or JSONResponse(found if "POST /" in self.faults else [found])

    async def tokenize(self, request: Request) -> Response:
        text, begun, found = (await request.json())["inputs"], 0, []
        for word in text.split(" "):
            stop = begun + len(word) + (begun + len(word) < len(text))
            found.append({"id": len(found), "text": text[begun:stop], "start": begun, "stop": stop})
            begun = stop
        return JSONResponse(found[:-1] if "tokenize" in self.faults else found)

    async def health(self, request: Request) -> Response:
        return Response(status_code=503 if "health" in self.faults else 200)

    async def metrics(self, request: Request) -> Response:
        good = '# TYPE words_total counter\nwords_total{model="words"} 17\n'
        return PlainTextResponse(good if "metrics" not in self.faults else "<html>metrics</html>")


@contextmanager
def faulty_server(*faults: str, key: str | None = None) -> Iterator[str]:
    """Its address, for as long as the block lasts."""
    listening = listen("127.0.0.1", 0)
    app = Starlette(routes=FaultyServer(frozenset(faults), key).routes())
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
