"""Servers that are not ours: they say what they are told to say, so that each way of not fitting can be met."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

from easyllm.serve.text import decode


class Stranger:
    """A server that answers every completion with the same tokens, two to an event, as vLLM under load."""

    def __init__(self, tokenizer: Any) -> None:
        self.answer = [80, 81, 82, 83, 84, 85, 86, 87]
        self.text: str | None = None
        self.cards: list[Any] = [{"id": "base", "max_model_len": 4096}, {"id": "adapter", "parent": "base"}]
        self.with_ids = True
        self.error: Any = None
        """An event to end with, instead of [DONE]."""
        self.status: tuple[int, Any] | None = None
        self.key: str | None = None
        self.prompt_tokens: int | None = None
        self.asked: list[Any] = []
        self.url = ""
        self._tokenizer = tokenizer

    def events(self, body: Any) -> Iterator[Any]:
        head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"]}
        text = decode(self._tokenizer, self.answer) if self.text is None else self.text
        for start in range(0, len(self.answer), 2):
            ids = self.answer[start : start + 2]
            last = start + 2 >= len(self.answer)
            choice: dict[str, Any] = {
                "index": 0, "text": "" if start else text, "stop_reason": None,
                "finish_reason": "length" if last else None,
                "logprobs": {"text_offset": [0] * len(ids), "token_logprobs": [-0.5] * len(ids),
                             "tokens": ["?"] * len(ids), "top_logprobs": [{"?": -0.5}] * len(ids)},
                "prompt_token_ids": None if start else body["prompt"],
            }  # fmt: skip
            yield {**head, "choices": [choice | ({"token_ids": ids} if self.with_ids else {})]}
        if body.get("stream_options"):
            counted = self.prompt_tokens or len(body["prompt"])
            yield {**head, "choices": [], "usage": {"prompt_tokens": counted, "completion_tokens": len(self.answer)}}
        if self.error:
            yield self.error


def handler(stranger: Stranger) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/health":
                self.say(200, b"")
            elif self.refused():
                self.say(401, json.dumps({"error": f"{self.headers['Authorization']} is not the key"}).encode())
            else:
                self.say(200, json.dumps({"object": "list", "data": stranger.cards}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stranger.asked.append(body)
            if stranger.status:
                self.say(stranger.status[0], json.dumps(stranger.status[1]).encode())
                return
            lines = [f"data: {json.dumps(entry)}\n\n" for entry in stranger.events(body)]
            self.say(200, "".join([*lines, "data: [DONE]\n\n"]).encode(), "text/event-stream")

        def refused(self) -> bool:
            return stranger.key is not None and self.headers["Authorization"] != f"Bearer {stranger.key}"

        def say(self, status: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
