"""The OpenAI API: /v1/models, /v1/chat/completions and /v1/completions, whole or as a stream."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from easyllm.serve.bodies import ChatBody, CompletionBody, OpenAIBody
from easyllm.serve.contract import Ask, EngineFailed, Piece, Sampling, Whole
from easyllm.serve.desk import Desk
from easyllm.serve.model_names import adapter_of_model, model_cards
from easyllm.serve.refusals import Refused, invalid, openai_body
from easyllm.serve.scoring import choice
from easyllm.serve.sse import event

FINISH = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}


def routes(desk: Desk) -> list[Route]:
    """The routes below /v1."""
    api = OpenAIRoutes(desk)
    return [
        Route("/v1/models", api.models, methods=["GET"]),
        Route("/v1/models/{name:path}", api.one_model, methods=["GET"]),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/completions", api.completions, methods=["POST"]),
    ]


class OpenAIRoutes:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.started = int(time.time())

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": model_cards(self.desk, self.started)})

    async def one_model(self, request: Request) -> Response:
        adapter = adapter_of_model(self.desk, request.path_params["name"])
        wanted = adapter or self.desk.about.name
        return JSONResponse(next(card for card in model_cards(self.desk, self.started) if card["id"] == wanted))

    async def chat(self, request: Request) -> Response:
        body = await self.desk.read(request, ChatBody)
        adapter = adapter_of_model(self.desk, body.model)
        if body.max_tokens and body.max_completion_tokens:
            raise invalid("set `max_tokens` or `max_completion_tokens`, not both", "max_tokens")
        ids = self.desk.prompt_of_messages(body.messages)
        ask = self.ask(body, ids, body.max_completion_tokens or body.max_tokens, adapter=adapter)
        return await self.reply(body, ask, ChatWords(adapter or self.desk.about.name), request)

    async def completions(self, request: Request) -> Response:
        body = await self.desk.read(request, CompletionBody)
        adapter = adapter_of_model(self.desk, body.model)
        self.require_own_ends(body)
        if isinstance(body.prompt, str):
            ids = self.desk.prompt_of_text(body.prompt)
        else:
            ids = self.desk.prompt_of_ids(flat(body.prompt))
        # OpenAI's default of 16 new tokens: a completion has no turn end to stop at.
        ask = self.ask(body, ids, body.max_tokens, default=16, adapter=adapter)
        words = CompletionWords(adapter or self.desk.about.name, body, ids)
        if body.echo or body.logprobs:
            return await self.scored(body, ask, words, request)
        return await self.reply(body, ask, words, request)

    async def scored(self, body: CompletionBody, ask: Ask, words: "CompletionWords", request: Request) -> Response:
        """An answer with its prompt before it, or with the likeliest other tokens: one more forward pass over all."""
        field = "echo" if body.echo else "logprobs"
        if body.stream:
            raise invalid(f"`{field}` cannot be streamed by this server", field)
        if body.logprobs is not None and not self.desk.model.voice.engine.abilities.score:
            raise invalid(f"`{field}`: the engine behind this server does not score given tokens", field)
        answer = await self.desk.whole(ask, request)
        found = words.whole(answer, ask)
        tokenizer = self.desk.model.voice.tokenizer
        if body.logprobs is None:
            found["choices"][0]["text"] = tokenizer.decode(ask.ids) + answer.text
            return JSONResponse(found)
        ids = [*ask.ids, *[piece.token.id for piece in answer.pieces]]
        values = await self.desk.score(ids, body.logprobs, ask.adapter)
        found["choices"][0] |= choice(tokenizer, ask.ids, answer, values, body.logprobs, bool(body.echo))
        return JSONResponse(found)

    async def reply(self, body: OpenAIBody, ask: Ask, words: "Words", request: Request) -> Response:
        if body.stream_options and not body.stream:
            raise invalid("`stream_options` needs `stream`: true", "stream_options")
        if not body.stream:
            return JSONResponse(words.whole(await self.desk.whole(ask, request), ask))
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        return await self.desk.stream(ask, lambda pieces: words.stream(pieces, ask, with_usage), request)

    def require_own_ends(self, body: CompletionBody) -> None:
        """An answer ends where the model's answers end; a request may say so, and may not say otherwise."""
        own = set(self.desk.model.ends)
        asked = set(body.stop_token_ids or ()) | (set() if body.ignore_eos else own)
        if asked != own:
            field = "stop_token_ids" if body.stop_token_ids else "ignore_eos"
            raise invalid(f"`{field}`: this server ends an answer at the token ids {sorted(own)} and no others", field)

    def ask(
        self, body: OpenAIBody, ids: list[int], asked: int | None, default: int | None = None,
        adapter: str | None = None,
    ) -> Ask:  # fmt: skip
        """The checked request. Absent sampling settings are those of the model's generation_config."""
        given = self.desk.model.default
        sampling = Sampling(
            given.temperature if body.temperature is None else body.temperature,
            given.top_p if body.top_p is None else body.top_p,
            given.top_k if body.top_k is None else body.top_k,
            body.seed,
        )
        return Ask(ids, self.desk.room(ids, asked, default), sampling, body.stops(), adapter=adapter)


def flat(ids: list[int] | list[list[int]]) -> list[int]:
    """The one prompt of a list that may hold it as a list."""
    return [number for part in ids for number in (part if isinstance(part, list) else [part])]


class Words:
    """How an answer is told; the two routes differ in names only."""

    prefix, object_whole, object_chunk = "", "", ""

    def __init__(self, model: str) -> None:
        self.base = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def choice(self, answer: Whole) -> dict[str, Any]:
        raise NotImplementedError

    def delta(self, piece: Piece | None) -> dict[str, Any]:
        """Of a chunk; None makes the last one, which has no text."""
        raise NotImplementedError

    def worth_telling(self, piece: Piece) -> bool:
        """Whether a piece makes a chunk: one without text usually says nothing."""
        return bool(piece.text)

    def opening(self) -> dict[str, Any] | None:
        """A first delta before any text, or None."""
        return None

    def whole(self, answer: Whole, ask: Ask) -> dict[str, Any]:
        choice = {
            "index": 0,
            "logprobs": None,
            **self.choice(answer),
            "finish_reason": FINISH[answer.finish],
        }
        counted = usage(ask, len(answer.pieces))
        return {**self.base, "object": self.object_whole, "choices": [choice], "usage": counted}

    async def stream(
        self, pieces: AsyncGenerator[Piece, None], ask: Ask, with_usage: bool
    ) -> AsyncGenerator[bytes, None]:
        extra: dict[str, Any] = {"usage": None} if with_usage else {}
        count, finish = 0, None
        opening = self.opening()
        if opening is not None:
            yield event(self.chunk(opening, None, extra))
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    count += 1
                    finish = piece.finish
                    if self.worth_telling(piece):
                        yield event(self.chunk(self.delta(piece), None, extra))
        except EngineFailed as error:
            yield event(openai_body(Refused(error.status, str(error))))
            return
        yield event(self.chunk(self.delta(None), FINISH[str(finish)], extra))
        if with_usage:
            yield event({**self.base, "object": self.object_chunk, "choices": [], "usage": usage(ask, count)})
        yield event("[DONE]")

    def chunk(self, delta: dict[str, Any], finish: str | None, extra: dict[str, Any]) -> dict[str, Any]:
        choice = {"index": 0, "logprobs": None, **delta, "finish_reason": finish}
        return {**self.base, "object": self.object_chunk, "choices": [choice], **extra}


class ChatWords(Words):
    prefix, object_whole, object_chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, answer: Whole) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": answer.text}}

    def delta(self, piece: Piece | None) -> dict[str, Any]:
        return {"delta": {} if piece is None else {"content": piece.text}}

    def opening(self) -> dict[str, Any] | None:
        return {"delta": {"role": "assistant", "content": ""}}


class CompletionWords(Words):
    prefix, object_whole, object_chunk = "cmpl", "text_completion", "text_completion"

    def __init__(self, model: str, body: CompletionBody, prompt: list[int]) -> None:
        super().__init__(model)
        self._with_logprobs = body.logprobs is not None
        self._with_ids = bool(body.return_token_ids)
        self._prompt: list[int] | None = prompt
        """Told once, with the first token."""
        self._told = 0
        """Characters told so far."""

    def choice(self, answer: Whole) -> dict[str, Any]:
        return {"text": answer.text, **self._details(answer.pieces)}

    def delta(self, piece: Piece | None) -> dict[str, Any]:
        pieces = [piece] if piece else []
        return {"text": piece.text if piece else "", **self._details(pieces)}

    def worth_telling(self, piece: Piece) -> bool:
        return bool(piece.text) or self._with_ids or self._with_logprobs

    def _details(self, pieces: list[Piece]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self._with_ids:
            found |= {"token_ids": [piece.token.id for piece in pieces], "prompt_token_ids": self._prompt}
            self._prompt = None
        if self._with_logprobs:
            found["logprobs"] = self._logprobs(pieces)
        return found

    def _logprobs(self, pieces: list[Piece]) -> dict[str, Any]:
        offsets = []
        for piece in pieces:
            offsets.append(self._told)
            self._told += len(piece.text)
        return {
            "tokens": [piece.text for piece in pieces],
            "token_logprobs": [piece.token.logprob for piece in pieces],
            "top_logprobs": None,
            "text_offset": offsets,
        }


def usage(ask: Ask, generated: int) -> dict[str, int]:
    """Tokens in and out; an end token counts, since it was generated."""
    prompt = len(ask.ids)
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
