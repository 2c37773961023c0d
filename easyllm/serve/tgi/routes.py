"""The API of text-generation-inference: /, /generate, /generate_stream, /tokenize and what stands around them."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from easyllm import __version__
from easyllm.serve.bodies import MOST_STOPS
from easyllm.serve.contract import Ask, Sampling, Scored
from easyllm.serve.deployment import deployment
from easyllm.serve.desk import Desk
from easyllm.serve.doors import Door
from easyllm.serve.honoured import require_able, require_score, warmth
from easyllm.serve.model_names import adapter_of_id, adapter_of_model
from easyllm.serve.openai.conversation import rendered, size_of
from easyllm.serve.refusals import invalid
from easyllm.serve.several import mean_logprob
from easyllm.serve.stopwatch import Stopwatch, compute_headers
from easyllm.serve.tgi.bodies import (
    MOST_BEST_OF,
    MOST_TOP_TOKENS,
    ChatTokenizeBody,
    TgiBody,
    TgiParameters,
    TokenizeBody,
    grammar_of,
)  # fmt: skip
from easyllm.serve.tgi.shapes import ChatTokens, Generated, Info, SimpleToken, TokenEvent
from easyllm.serve.tgi.words import TgiWords

DEFAULT_NEW_TOKENS = 100
NAMES = {"likeliest": "top_n_tokens"}


def routes(desk: Desk) -> list[Door]:
    """The routes outside /v1."""
    api = TgiRoutes(desk)
    return [
        Door("GET", "/info", api.info, Info),
        Door("GET", "/health", api.health, None),
        Door("GET", "/ping", api.health, None),
        Door("POST", "/", api.either, list[Generated], TgiBody, TokenEvent),
        Door("POST", "/generate", api.generate, Generated, TgiBody),
        Door("POST", "/generate_stream", api.generate_stream, None, TgiBody, TokenEvent),
        Door("POST", "/tokenize", api.tokenize, list[SimpleToken], TokenizeBody),
        Door("POST", "/chat_tokenize", api.chat_tokenize, ChatTokens, ChatTokenizeBody),
    ]


class TgiRoutes:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def info(self, request: Request) -> Response:
        """What is served, and its limits."""
        about, loaded = self.desk.about, self.desk.loaded
        found: Info = {
            "model_id": about.name,
            "model_sha": about.digest,
            "model_pipeline_tag": None,
            "model_dtype": loaded.dtype if loaded else None,
            "model_device_type": loaded.device if loaded else None,
            "max_concurrent_requests": about.limits.concurrent_requests,
            "max_best_of": MOST_BEST_OF,
            "max_stop_sequences": MOST_STOPS,
            "max_top_n_tokens": MOST_TOP_TOKENS,
            "max_input_tokens": about.limits.input_tokens,
            "max_total_tokens": about.limits.total_tokens,
            "max_client_batch_size": about.limits.concurrent_requests,
            "validation_workers": 1,
            "router": "easyllm",
            "version": __version__,
            **deployment(self.desk),
        }
        return JSONResponse(found)

    async def health(self, request: Request) -> Response:
        """200 once an answer has been generated and while the engine lives, 503 otherwise."""
        self.desk.model  # noqa: B018  it refuses with 503
        return Response()

    async def either(self, request: Request) -> Response:
        """A text goes on: ``stream`` in the body decides how; without it the answer is a list of one."""
        return await self.either_of(await self.desk.read(request, TgiBody), request)

    async def either_of(self, body: TgiBody, request: Request) -> Response:
        if body.stream:
            return await self.stream(body, request)
        found, headers = await self.whole(body, request)
        return JSONResponse([found], headers=headers)

    async def generate(self, request: Request) -> Response:
        """A text goes on."""
        found, headers = await self.whole(await self.desk.read(request, TgiBody), request)
        return JSONResponse(found, headers=headers)

    async def generate_stream(self, request: Request) -> Response:
        """A text goes on, one event a token."""
        return await self.stream(await self.desk.read(request, TgiBody), request)

    async def tokenize(self, request: Request) -> Response:
        """A text's tokens."""
        body = await self.desk.read(request, TokenizeBody)
        keep = self.truncation(body.parameters.truncate) if body.parameters else None
        tokens = await self.tokens_of(body.inputs, special=True)
        return JSONResponse(tokens[-keep:] if keep else tokens)

    async def chat_tokenize(self, request: Request) -> Response:
        """A conversation as the chat template writes it, and its tokens."""
        body = await self.desk.read(request, ChatTokenizeBody)
        adapter_of_model(self.desk, body.model)
        tokenizer, tools = self.desk.model.voice.tokenizer, body.known_tools()
        prompt = await self.desk.beside(size_of(body), lambda: rendered(tokenizer, body.messages, tools))
        tokens = await self.tokens_of(prompt.text, special=False)
        found: ChatTokens = {"tokenize_response": tokens, "templated_text": prompt.text}
        return JSONResponse(found)

    async def tokens_of(self, text: str, special: bool) -> list[SimpleToken]:
        tokenizer = self.desk.model.voice.tokenizer
        return await self.desk.beside(len(text), lambda: tokens_of(tokenizer, text, special))

    async def whole(self, body: TgiBody, request: Request) -> tuple[Generated, dict[str, str]]:
        """The answer and the headers that say where its time went."""
        watch = Stopwatch()
        asks = await self.asks(body)
        scored = await self.prefill(body, asks[0], request)
        watch.ask()
        answers = await self.desk.wholes(asks, request, watch.begin)
        found = TgiWords(self.desk.model.voice.tokenizer, body, asks).whole(answers, scored)
        return found, watch.headers(self.device, body.inputs, len(asks[0].ids), max(answers, key=mean_logprob))

    async def prefill(self, body: TgiBody, ask: Ask, request: Request) -> Sequence[Scored]:
        if not (body.parameters and body.parameters.decoder_input_details):
            return []
        require_score(self.desk.model.voice.engine, "decoder_input_details")
        return await self.desk.score(ask.ids, 0, ask.adapter, request)

    async def stream(self, body: TgiBody, request: Request) -> Response:
        settings = body.parameters or TgiParameters()
        if (settings.best_of or 1) != 1:
            raise invalid("`best_of` != 1 is not supported when streaming tokens", "best_of")
        if settings.decoder_input_details:
            told = "`decoder_input_details` == true is not supported when streaming tokens"
            raise invalid(told, "decoder_input_details")
        asks = await self.asks(body)
        words = TgiWords(self.desk.model.voice.tokenizer, body, asks)
        return await self.desk.streams(asks, words.stream, request, compute_headers(self.device, body.inputs))

    @property
    def device(self) -> str:
        return self.desk.model.device or "remote"

    async def asks(self, body: TgiBody) -> list[Ask]:
        """One for each of ``best_of`` answers."""
        settings = body.parameters or TgiParameters()
        count = settings.best_of or 1
        if count > 1 and not is_sampled(settings):
            raise invalid("you must use sampling when `best_of` is > 1", "best_of")
        if count > 1 and settings.seed is not None:
            raise invalid("`seed` must not be set when `best_of` > 1", "seed")
        adapter = adapter_of_id(self.desk, settings.adapter_id)
        ids = await self.desk.prompt_of_text(body.inputs, self.truncation(settings.truncate))
        room = self.desk.room(ids, settings.max_new_tokens, DEFAULT_NEW_TOKENS, ("inputs", "max_new_tokens"))
        stops = tuple(settings.stop or ())
        samplings = [
            require_able(self.desk.model.voice.engine, sampling_of(settings), NAMES) for _ in range(count)
        ]  # fmt: skip
        return [Ask(ids, room, sampling, stops, keep_stop=True, adapter=adapter) for sampling in samplings]

    def truncation(self, asked: int | None) -> int | None:
        most = self.desk.about.limits.input_tokens
        if asked is not None and not 0 < asked <= most:
            told = f"`truncate` must be strictly positive and less than {most}. Given: {asked}"
            raise invalid(told, "truncate")
        return asked


def tokens_of(tokenizer: Any, text: str, special: bool) -> list[SimpleToken]:
    """Each token with the part of ``text`` it stands for; a token that stands for none of it has an empty one."""
    if not getattr(tokenizer, "is_fast", False):  # such a tokenizer does not know where its tokens are
        return [
            {"id": number, "text": "", "start": 0, "stop": 0}
            for number in tokenizer.encode(text, add_special_tokens=special)
        ]
    found = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
    return [{"id": number, "text": text[start:stop], "start": start, "stop": stop} for number, (start, stop) in pairs]


def is_sampled(settings: TgiParameters) -> bool:
    """Greedy unless do_sample or any sampling setting says otherwise, as in text-generation-inference."""
    cuts = (settings.top_p, settings.top_k, settings.typical_p)
    warm = settings.temperature is not None and settings.temperature != 1.0
    return bool(settings.do_sample) or warm or any(cut is not None for cut in cuts)


def sampling_of(settings: TgiParameters) -> Sampling:
    """What ``settings`` say. A sampled answer without a seed gets one, so that its details can tell it."""
    plain = Sampling(
        seed=settings.seed,
        repetition_penalty=settings.repetition_penalty or 1.0,
        frequency_penalty=settings.frequency_penalty or 0.0,
        likeliest=settings.top_n_tokens or 0,
        grammar=grammar_of(settings.grammar),
    )
    if not is_sampled(settings):
        return plain
    return replace(
        plain, temperature=warmth(settings.temperature or 1.0), top_p=settings.top_p or 1.0, top_k=settings.top_k or 0,
        typical_p=settings.typical_p or 1.0, seed=secrets.randbits(63) if settings.seed is None else settings.seed,
    )  # fmt: skip
