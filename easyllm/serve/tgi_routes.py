"""The API of text-generation-inference: /, /generate, /generate_stream, /info and /health."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from easyllm import __version__
from easyllm.serve.bodies import MOST_STOPS, TgiBody, TgiParameters
from easyllm.serve.contract import Ask, EngineFailed, Piece, Sampling, Whole
from easyllm.serve.desk import Desk
from easyllm.serve.model_names import adapter_of_id
from easyllm.serve.refusals import Refused, tgi_body
from easyllm.serve.sse import event

DEFAULT_NEW_TOKENS = 100


def routes(desk: Desk) -> list[Route]:
    """The routes outside /v1."""
    api = TgiRoutes(desk)
    return [
        Route("/info", api.info, methods=["GET"]),
        Route("/health", api.health, methods=["GET"]),
        Route("/", api.either, methods=["POST"]),
        Route("/generate", api.generate, methods=["POST"]),
        Route("/generate_stream", api.generate_stream, methods=["POST"]),
    ]


class TgiRoutes:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def info(self, request: Request) -> Response:
        about, loaded = self.desk.about, self.desk.loaded
        return JSONResponse(
            {
                "model_id": about.name,
                "model_sha": about.digest,
                "model_pipeline_tag": None,
                "model_dtype": loaded.dtype if loaded else None,
                "model_device_type": loaded.device if loaded else None,
                "max_concurrent_requests": about.limits.concurrent_requests,
                "max_best_of": 1,
                "max_stop_sequences": MOST_STOPS,
                "max_input_tokens": about.limits.input_tokens,
                "max_total_tokens": about.limits.total_tokens,
                "max_client_batch_size": 1,
                "validation_workers": 1,
                "router": "easyllm",
                "version": __version__,
            }
        )

    async def health(self, request: Request) -> Response:
        """200 once an answer has been generated and while the engine lives, 503 otherwise."""
        self.desk.model  # noqa: B018  it refuses with 503
        return Response()

    async def either(self, request: Request) -> Response:
        """``stream`` in the body decides; without it the answer is a list of one."""
        body = await self.desk.read(request, TgiBody)
        if body.stream:
            return await self.stream(body, request)
        return JSONResponse([await self.whole(body, request)])

    async def generate(self, request: Request) -> Response:
        return JSONResponse(await self.whole(await self.desk.read(request, TgiBody), request))

    async def generate_stream(self, request: Request) -> Response:
        return await self.stream(await self.desk.read(request, TgiBody), request)

    async def whole(self, body: TgiBody, request: Request) -> dict[str, Any]:
        settings = body.parameters or TgiParameters()
        answer = await self.desk.whole(self.ask(body, settings), request)
        text = f"{body.inputs}{answer.text}" if settings.return_full_text else answer.text
        found: dict[str, Any] = {"generated_text": text}
        if settings.details:
            found["details"] = self.details(answer, settings)
        return found

    async def stream(self, body: TgiBody, request: Request) -> Response:
        settings = body.parameters or TgiParameters()
        ask = self.ask(body, settings)
        return await self.desk.stream(ask, lambda pieces: self.events(pieces, body, settings), request)

    async def events(
        self, pieces: AsyncGenerator[Piece, None], body: TgiBody, settings: TgiParameters
    ) -> AsyncGenerator[bytes, None]:
        """One event a token; the last one has the whole text and, if asked for, the details."""
        said: list[Piece] = []
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    said.append(piece)
                    yield event(self.token_event(piece, said, body, settings))
        except EngineFailed as error:
            yield event(tgi_body(Refused(error.status, str(error))))

    def token_event(self, piece: Piece, said: list[Piece], body: TgiBody, settings: TgiParameters) -> dict[str, Any]:
        text, details = None, None
        if piece.finish:
            answer = Whole("".join(p.text for p in said), said)
            text = f"{body.inputs}{answer.text}" if settings.return_full_text else answer.text
            if settings.details:
                counted = self.details(answer, settings)
                details = {key: counted[key] for key in ("finish_reason", "generated_tokens", "seed")}
                details["input_length"] = len(self.prompt(body, settings))
        return {"index": len(said), "token": self.token(piece), "generated_text": text, "details": details}

    def token(self, piece: Piece) -> dict[str, Any]:
        """A special token shows its name, as in text-generation-inference, and is not in generated_text."""
        name = self.desk.model.voice.tokenizer.convert_ids_to_tokens(piece.token.id) if piece.special else piece.text
        return {"id": piece.token.id, "text": name, "logprob": piece.token.logprob, "special": piece.special}

    def details(self, answer: Whole, settings: TgiParameters) -> dict[str, Any]:
        return {
            "finish_reason": answer.finish,
            "generated_tokens": len(answer.pieces),
            "seed": settings.seed,
            "prefill": [],
            "tokens": [self.token(piece) for piece in answer.pieces],
        }

    def prompt(self, body: TgiBody, settings: TgiParameters) -> list[int]:
        return self.desk.prompt_of_text(body.inputs, settings.truncate)

    def ask(self, body: TgiBody, settings: TgiParameters) -> Ask:
        ids = self.prompt(body, settings)
        room = self.desk.room(ids, settings.max_new_tokens, DEFAULT_NEW_TOKENS)
        adapter = adapter_of_id(self.desk, settings.adapter_id)
        stops = tuple(settings.stop or ())
        return Ask(ids, room, sampling_of(settings), stops, keep_stop=True, adapter=adapter)


def sampling_of(settings: TgiParameters) -> Sampling:
    """Greedy unless do_sample or any sampling setting says otherwise, as in text-generation-inference."""
    cuts = settings.top_p is not None or settings.top_k is not None
    warm = settings.temperature is not None and settings.temperature != 1.0
    if not (settings.do_sample or cuts or warm):
        return Sampling()
    return Sampling(settings.temperature or 1.0, settings.top_p or 1.0, settings.top_k or 0, settings.seed)
