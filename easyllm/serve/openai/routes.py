"""The OpenAI API: /v1/models, /v1/chat/completions and /v1/completions, whole or as a stream."""

import time
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from easyllm.serve.contract import Ask
from easyllm.serve.desk import Desk
from easyllm.serve.doors import Door
from easyllm.serve.honoured import require_score
from easyllm.serve.model_names import adapter_of_model, model_cards
from easyllm.serve.openai.asks import (
    NEW_TOKENS_OF_A_COMPLETION,
    best,
    made,
    require_own_ends,
    sampling_of,
    several,
)  # fmt: skip
from easyllm.serve.openai.bodies import ChatBody, CompletionBody, OpenAIBody, grammar_of
from easyllm.serve.openai.conversation import rendered, size_of
from easyllm.serve.openai.demanded import demand_of, reader_of
from easyllm.serve.openai.prompts import echo_of, prompt_logprobs
from easyllm.serve.openai.shapes import ChatChunk, ChatCompletion, Completion, ModelCard, ModelList
from easyllm.serve.openai.words import ChatTeller, CompletionTeller, Words, usage
from easyllm.serve.refusals import invalid

CHAT_NAMES = {"likeliest": "top_logprobs"}
COMPLETION_NAMES = {"likeliest": "logprobs", "grammar": "structured_outputs"}


def routes(desk: Desk) -> list[Door]:
    """The routes below /v1."""
    api = OpenAIRoutes(desk)
    return [
        Door("GET", "/v1/models", api.models, ModelList),
        Door("GET", "/v1/models/{name:path}", api.one_model, ModelCard),
        Door("POST", "/v1/chat/completions", api.chat, ChatCompletion, ChatBody, ChatChunk),
        Door("POST", "/v1/completions", api.completions, Completion, CompletionBody, Completion),
    ]


class OpenAIRoutes:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.started = int(time.time())

    async def models(self, request: Request) -> Response:
        """The models that can be asked."""
        return JSONResponse({"object": "list", "data": model_cards(self.desk, self.started)})

    async def one_model(self, request: Request) -> Response:
        """One of them by its name."""
        wanted = adapter_of_model(self.desk, request.path_params["name"]) or self.desk.about.name
        return JSONResponse(next(card for card in model_cards(self.desk, self.started) if card["id"] == wanted))

    async def chat(self, request: Request) -> Response:
        """The next message of a conversation, in the model's own chat template."""
        return await self.chat_of(await self.desk.read(request, ChatBody), request)

    async def chat_of(self, body: ChatBody, request: Request) -> Response:
        adapter = adapter_of_model(self.desk, body.model)
        if body.max_tokens and body.max_completion_tokens:
            raise invalid("set `max_tokens` or `max_completion_tokens`, not both", "max_tokens")
        if body.top_logprobs is not None and not body.logprobs:
            raise invalid("`top_logprobs` needs `logprobs`: true", "top_logprobs")
        demand = demand_of(body)
        tokenizer, tools = self.desk.model.voice.tokenizer, body.known_tools()
        self.desk.require_places(body.n or 1)
        prompt = await self.desk.beside(size_of(body), lambda: rendered(tokenizer, body.messages, tools))
        count = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
        room = self.desk.room(prompt.ids, getattr(body, count), None, ("messages", count))
        grammar = demand.grammar if demand else grammar_of(body.response_format)
        names = CHAT_NAMES | {"grammar": "tool_choice" if demand else "response_format"}
        sampling = sampling_of(self.desk, body, body.top_logprobs or 0, grammar, names)
        asks = several(Ask(prompt.ids, room, sampling, body.stops(), adapter=adapter), body.n or 1)
        likeliest = (body.top_logprobs or 0) if body.logprobs else None
        tellers = [ChatTeller(tokenizer, likeliest, reader_of(tokenizer, prompt.text, tools, demand)) for _ in asks]
        name = adapter or self.desk.about.name
        words = Words("chatcmpl", "chat.completion", "chat.completion.chunk", name, tellers)
        return await self.reply(body, asks, words, request, len(prompt.ids))

    async def completions(self, request: Request) -> Response:
        """A text goes on, just as it is."""
        return await self.completions_of(await self.desk.read(request, CompletionBody), request)

    async def completions_of(self, body: CompletionBody, request: Request) -> Response:
        adapter = adapter_of_model(self.desk, body.model)
        require_own_ends(self.desk, body)
        told, count = body.n or 1, made(body)
        self.desk.require_places(count * len(body.prompts()))
        grammar = body.structured_outputs.grammar() if body.structured_outputs else None
        sampling = sampling_of(self.desk, body, body.logprobs or 0, grammar, COMPLETION_NAMES)
        self.require_scores(body)
        tokenizer = self.desk.model.voice.tokenizer
        prompts = [await self.ids_of(prompt) for prompt in body.prompts()]
        names = "prompt", "max_tokens"
        rooms = [self.desk.room(ids, body.max_tokens, NEW_TOKENS_OF_A_COMPLETION, names) for ids in prompts]
        asks: list[Ask] = []
        tellers: list[CompletionTeller] = []
        for ids, room in zip(prompts, rooms, strict=True):
            asks += several(Ask(ids, room, sampling, body.stops(), adapter=adapter), count)
            echo = await self.echo(body, ids, adapter, request) if body.echo else None
            beside = await self.beside(body, ids, adapter, request)
            tellers += [CompletionTeller(tokenizer, body, ids, echo, beside) for _ in range(told)]
        words = Words("cmpl", "text_completion", "text_completion", adapter or self.desk.about.name, tellers)
        return await self.reply(body, asks, words, request, sum(len(ids) for ids in prompts), (count, told))

    async def ids_of(self, prompt: str | list[int]) -> list[int]:
        return await self.desk.prompt_of_text(prompt) if isinstance(prompt, str) else self.desk.prompt_of_ids(prompt)

    async def echo(self, body: CompletionBody, ids: list[int], adapter: str | None, request: Request) -> dict[str, Any]:
        """The prompt as the beginning of an answer, its tokens scored where ``logprobs`` asks for it."""
        asked = body.logprobs
        scored = [] if asked is None else await self.desk.score(ids, asked, adapter, request)
        return echo_of(self.desk.model.voice.tokenizer, body, ids, scored)

    async def beside(
        self, body: CompletionBody, ids: list[int], adapter: str | None, request: Request
    ) -> dict[str, Any]:
        """The prompt's scores beside the answer, where ``prompt_logprobs`` asks for them."""
        if body.prompt_logprobs is None:
            return {}
        scored = await self.desk.score(ids, body.prompt_logprobs, adapter, request)
        return {"prompt_logprobs": prompt_logprobs(self.desk.model.voice.tokenizer, ids, scored)}

    def require_scores(self, body: CompletionBody) -> None:
        """Refused: scores that cannot be had, or could not be told."""
        if body.echo and body.logprobs is not None:
            require_score(self.desk.model.voice.engine, "echo")
        if body.prompt_logprobs is not None:
            require_score(self.desk.model.voice.engine, "prompt_logprobs")
            if body.stream:
                raise invalid("`prompt_logprobs` cannot be streamed", "prompt_logprobs")
        if body.return_tokens_as_token_ids and body.logprobs is None:
            raise invalid("`return_tokens_as_token_ids` needs `logprobs`", "return_tokens_as_token_ids")

    async def reply(
        self, body: OpenAIBody, asks: Sequence[Ask], words: Words, request: Request, prompt_tokens: int,
        chosen: tuple[int, int] = (1, 1),
    ) -> Response:  # fmt: skip
        """``chosen``: of so many answers that one prompt gets, so many are told."""
        if body.stream_options and not body.stream:
            raise invalid("`stream_options` needs `stream`: true", "stream_options")
        if body.stream:
            with_usage = bool(body.stream_options and body.stream_options.include_usage)
            return await self.desk.streams(
                asks, lambda pieces: words.stream(pieces, prompt_tokens, with_usage), request
            )
        answers = await self.desk.wholes(asks, request, lambda: None)
        count, told = chosen
        each = [best(answers[first : first + count], told) for first in range(0, len(answers), count)]
        counted = usage(prompt_tokens, sum(len(answer.pieces) for answer in answers))
        return JSONResponse(words.whole([answer for group in each for answer in group], counted))
