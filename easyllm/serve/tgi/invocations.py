"""POST /invocations, as SageMaker calls a model: one route for every kind of request, told apart by its fields."""

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from easyllm.serve.bodies import read
from easyllm.serve.desk import Desk
from easyllm.serve.doors import Door
from easyllm.serve.openai.bodies import ChatBody, CompletionBody
from easyllm.serve.openai.routes import OpenAIRoutes
from easyllm.serve.openai.shapes import ChatChunk, ChatCompletion, Completion
from easyllm.serve.refusals import invalid
from easyllm.serve.tgi.bodies import TgiBody
from easyllm.serve.tgi.routes import TgiRoutes
from easyllm.serve.tgi.shapes import Generated, TokenEvent


def routes(desk: Desk) -> list[Door]:
    answers: Any = list[Generated] | ChatCompletion | Completion
    bodies: Any = TgiBody | ChatBody | CompletionBody
    events: Any = TokenEvent | ChatChunk | Completion
    return [Door("POST", "/invocations", Invocations(desk).ask, answers, bodies, events)]


class Invocations:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.openai = OpenAIRoutes(desk)
        self.tgi = TgiRoutes(desk)

    async def ask(self, request: Request) -> Response:
        """What /, /v1/chat/completions or /v1/completions answers, as ``inputs``, ``messages`` or ``prompt`` says."""
        text = await self.desk.text_of(request)
        if has(text, "messages"):
            return await self.openai.chat_of(read(text, ChatBody), request)
        if has(text, "prompt"):
            return await self.openai.completions_of(read(text, CompletionBody), request)
        if has(text, "inputs"):
            return await self.tgi.either_of(read(text, TgiBody), request)
        raise invalid("`inputs`, `messages` or `prompt` is missing", "inputs")


def has(text: bytes, field: str) -> bool:
    """Whether ``text`` is a JSON object with that field."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and field in found
