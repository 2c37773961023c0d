"""How the routes of text-generation-inference tell an answer: in one body, or as the events of a stream."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from easyllm.serve.contract import Ask, EngineFailed, Piece, Scored, Whole
from easyllm.serve.refusals import tgi_body, tgi_failure
from easyllm.serve.several import Numbered, mean_logprob, whole_of
from easyllm.serve.sse import event
from easyllm.serve.tgi.bodies import TgiBody, TgiParameters
from easyllm.serve.tgi.shapes import Details, Generated, PrefillToken, StreamDetails, TgiToken, TokenEvent, Told
from easyllm.serve.token_texts import text_of


class TgiWords:
    """Tells the answers of one request."""

    def __init__(self, tokenizer: Any, body: TgiBody, asks: Sequence[Ask]) -> None:
        self._tokenizer = tokenizer
        self._before = body.inputs if body.parameters and body.parameters.return_full_text else ""
        self._settings = body.parameters or TgiParameters()
        self._asks = asks

    def whole(self, answers: Sequence[Whole], scored: Sequence[Scored]) -> Generated:
        """The answer that is the likeliest a token; the others are in its details, in their own order."""
        best = max(range(len(answers)), key=lambda number: mean_logprob(answers[number]))
        found: Generated = {"generated_text": self._before + answers[best].text}
        if not (self._settings.details or self._settings.decoder_input_details):
            return found
        prefill = self._prefill(scored)
        details: Details = {**self._told(best, answers[best], prefill)}  # type: ignore[typeddict-item]  # Told is a part of Details
        found["details"] = details
        if len(answers) > 1:
            details["best_of_sequences"] = [
                {"generated_text": self._before + answer.text, **self._told(number, answer, prefill)}
                for number, answer in enumerate(answers)
                if number != best
            ]
        return found

    async def stream(self, pieces: AsyncGenerator[Numbered, None]) -> AsyncGenerator[bytes, None]:
        """One event a token; the last one has the whole text and, if asked for, the details."""
        said: list[Piece] = []
        try:
            async with aclosing(pieces):
                async for _, piece in pieces:
                    said.append(piece)
                    yield event(self._event(said))
        except EngineFailed as error:
            yield event(tgi_body(tgi_failure(error.status, str(error))))

    def _event(self, said: list[Piece]) -> TokenEvent:
        piece, ask = said[-1], self._asks[0]
        text: str | None = None
        details: StreamDetails | None = None
        if piece.finish:
            text = self._before + whole_of(said).text
            if self._settings.details:
                details = {
                    "finish_reason": piece.finish,
                    "generated_tokens": len(said),
                    "seed": ask.sampling.seed,
                    "input_length": len(ask.ids),
                }
        found: TokenEvent = {
            "index": len(said), "token": self._token(piece), "generated_text": text, "details": details,
        }  # fmt: skip
        return found | {"top_tokens": self._top(piece)} if ask.sampling.likeliest else found

    def _told(self, number: int, answer: Whole, prefill: list[PrefillToken]) -> Told:
        sampling = self._asks[number].sampling
        found: Told = {
            "finish_reason": answer.finish,
            "generated_tokens": len(answer.pieces),
            "seed": sampling.seed,
            "prefill": prefill,
            "tokens": [self._token(piece) for piece in answer.pieces],
        }
        return found | {"top_tokens": [self._top(piece) for piece in answer.pieces]} if sampling.likeliest else found

    def _token(self, piece: Piece) -> TgiToken:
        """A special token shows its name, as in text-generation-inference, and is not in generated_text."""
        name = self._tokenizer.convert_ids_to_tokens(piece.token.id) if piece.special else piece.text
        return {"id": piece.token.id, "text": name, "logprob": piece.token.logprob, "special": piece.special}

    def _top(self, piece: Piece) -> list[TgiToken]:
        special = set(self._tokenizer.all_special_ids)
        return [
            {"id": number, "text": text_of(self._tokenizer, number), "logprob": value, "special": number in special}
            for number, value in piece.token.likeliest
        ]

    def _prefill(self, scored: Sequence[Scored]) -> list[PrefillToken]:
        ids = self._asks[0].ids if scored else []
        return [
            {"id": number, "text": text_of(self._tokenizer, number), "logprob": value}
            for number, (value, _) in zip(ids, scored, strict=True)
        ]
