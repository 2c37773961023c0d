"""How the OpenAI routes tell answers: whole in one body, or as the events of a stream."""

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from easyllm import __version__
from easyllm.serve.contract import EngineFailed, Piece, Whole
from easyllm.serve.openai.bodies import CompletionBody
from easyllm.serve.openai.demanded import Reader
from easyllm.serve.openai.prompts import named, namer
from easyllm.serve.openai.shapes import ChatLogprobs, CompletionLogprobs, Said, Usage
from easyllm.serve.refusals import Refused, openai_body
from easyllm.serve.several import Numbered
from easyllm.serve.sse import event
from easyllm.serve.token_texts import TokenBytes, text_of

FINISH = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}


class Teller(Protocol):
    """Tells one answer; whole and streamed it says the same."""

    def whole(self, answer: Whole) -> dict[str, Any]:
        """The choice, with its finish_reason."""
        ...

    def opening(self) -> dict[str, Any] | None:
        """What a stream's first chunk says, before any token."""
        ...

    def part(self, piece: Piece) -> dict[str, Any] | None:
        """What one piece adds to a stream; None where that is nothing."""
        ...

    def closing(self, piece: Piece) -> list[dict[str, Any]]:
        """What is left to say after the last piece; the last of it has the finish_reason."""
        ...


class Words:
    """The body or the events around the answers of one request."""

    def __init__(self, prefix: str, whole: str, chunk: str, model: str, tellers: Sequence[Teller]) -> None:
        # system_fingerprint: OpenAI's name for what answers; text-generation 0.7 reads no answer without it.
        named = {"model": model, "system_fingerprint": f"easyllm-{__version__}"}
        self._base = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time())} | named
        self._whole, self._chunk = whole, chunk
        self._tellers = tellers

    def whole(self, answers: Sequence[Whole], counted: Usage) -> dict[str, Any]:
        """``answers`` in the order of the tellers."""
        told = zip(self._tellers, answers, strict=True)
        choices = [
            {"index": index, "logprobs": None} | teller.whole(answer) for index, (teller, answer) in enumerate(told)
        ]
        return {**self._base, "object": self._whole, "choices": choices, "usage": counted}

    async def stream(
        self, pieces: AsyncGenerator[Numbered, None], prompt_tokens: int, with_usage: bool
    ) -> AsyncGenerator[bytes, None]:
        """The events; ``with_usage`` adds one that counts tokens."""
        extra: dict[str, Any] = {"usage": None} if with_usage else {}
        count = 0
        for index, teller in enumerate(self._tellers):
            if (said := teller.opening()) is not None:
                yield event(self._event(index, said, extra))
        try:
            async with aclosing(pieces):
                async for index, piece in pieces:
                    count += 1
                    if (said := self._tellers[index].part(piece)) is not None:
                        yield event(self._event(index, said, extra))
                    for said in self._tellers[index].closing(piece) if piece.finish else ():
                        yield event(self._event(index, said, extra))
        except EngineFailed as error:
            yield event(openai_body(Refused(error.status, str(error))))
            return
        if with_usage:
            yield event({**self._base, "object": self._chunk, "choices": [], "usage": usage(prompt_tokens, count)})
        yield event("[DONE]")

    def _event(self, index: int, said: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        choice = {"index": index, "logprobs": None, "finish_reason": None} | said
        return {**self._base, "object": self._chunk, "choices": [choice], **extra}


def usage(prompt: int, generated: int) -> Usage:
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


class ChatTeller:
    """A chat's answer. ``likeliest`` None tells no log-probabilities; ``reader`` takes tool calls out of it."""

    def __init__(self, tokenizer: Any, likeliest: int | None, reader: Reader | None) -> None:
        self._tokenizer = tokenizer
        self._bytes = None if likeliest is None else TokenBytes(tokenizer)
        self._reader = reader

    def whole(self, answer: Whole) -> dict[str, Any]:
        parts = [self._content(piece) for piece in answer.pieces]
        left, finish = self._left(answer.pieces[-1])
        message: Said = {"role": "assistant"} | left  # type: ignore[assignment]  # both halves together are one
        content = "".join(parts) + (left.get("content") or "")
        message["content"] = None if not content and "tool_calls" in left else content
        found: dict[str, Any] = {"message": message, "finish_reason": finish}
        return found | self._logprobs(answer.pieces)

    def opening(self) -> dict[str, Any]:
        return {"delta": {"role": "assistant", "content": ""}}

    def part(self, piece: Piece) -> dict[str, Any] | None:
        content = self._content(piece)
        logprobs = self._logprobs([piece])
        if not content and not (logprobs and logprobs["logprobs"]["content"]):
            return None
        return {"delta": {"content": content}} | logprobs

    def closing(self, piece: Piece) -> list[dict[str, Any]]:
        left, finish = self._left(piece)
        for place, call in enumerate(left.get("tool_calls", ())):
            call["index"] = place
        return [*([{"delta": left}] if left else []), {"delta": {}, "finish_reason": finish}]

    def _content(self, piece: Piece) -> str:
        return self._reader.take(piece) if self._reader else piece.text

    def _left(self, last: Piece) -> tuple[Said, str]:
        left: Said = self._reader.finish() if self._reader else {}
        as_call = self._reader and self._reader.ends_as_call and "tool_calls" in left
        return left, "tool_calls" if as_call else FINISH[str(last.finish)]

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Of every token that says something: the end token is none of the content."""
        if self._bytes is None:
            return {}
        told: ChatLogprobs = {
            "content": [
                {
                    **self._one(piece.token.id, piece.token.logprob),
                    "top_logprobs": [self._one(number, value) for number, value in piece.token.likeliest],
                }  # type: ignore[typeddict-item]  # _one has the rest
                for piece in pieces
                if piece.finish != "eos_token"
            ]
        }
        return {"logprobs": told}

    def _one(self, token: int, logprob: float) -> Any:
        assert self._bytes is not None
        return {"token": text_of(self._tokenizer, token), "logprob": logprob, "bytes": self._bytes.of(token)}


class CompletionTeller:
    """A completion's answer, after its prompt where ``echo`` is asked for."""

    def __init__(
        self, tokenizer: Any, body: CompletionBody, prompt: list[int], echo: dict[str, Any] | None,
        beside: dict[str, Any],
    ) -> None:  # fmt: skip
        self._name = namer(tokenizer, body)
        self._likeliest = body.logprobs
        self._with_ids = bool(body.return_token_ids)
        self._prompt: list[int] | None = prompt
        """Told once, with the first token."""
        self._echo = echo
        self._beside = beside
        """What a whole answer tells of its prompt besides."""
        self._told = len(echo["text"]) if echo else 0
        """Characters told so far."""

    def whole(self, answer: Whole) -> dict[str, Any]:
        found = {"text": answer.text} | self._details(answer.pieces)
        if self._echo:
            found["text"] = self._echo["text"] + answer.text
        if self._echo and self._likeliest is not None:
            before = self._echo["logprobs"]
            found["logprobs"] = {name: _joined(before[name], found["logprobs"][name]) for name in before}
        return found | self._beside | {"finish_reason": FINISH[answer.finish]}

    def opening(self) -> dict[str, Any] | None:
        return self._echo

    def part(self, piece: Piece) -> dict[str, Any] | None:
        if not (piece.text or self._with_ids or self._likeliest is not None):
            return None
        return {"text": piece.text} | self._details([piece])

    def closing(self, piece: Piece) -> list[dict[str, Any]]:
        return [{"text": "", "finish_reason": FINISH[str(piece.finish)]} | self._details([])]

    def _details(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self._with_ids:
            found |= {"token_ids": [piece.token.id for piece in pieces], "prompt_token_ids": self._prompt}
            self._prompt = None
        if self._likeliest is not None:
            found["logprobs"] = self._logprobs(pieces)
        return found

    def _logprobs(self, pieces: Sequence[Piece]) -> CompletionLogprobs:
        offsets = []
        for piece in pieces:
            offsets.append(self._told)
            self._told += piece.characters
        return {
            "tokens": [self._name(piece.token.id) for piece in pieces],
            "token_logprobs": [piece.token.logprob for piece in pieces],
            "top_logprobs": [self._top(piece) for piece in pieces] if self._likeliest else None,
            "text_offset": offsets,
        }

    def _top(self, piece: Piece) -> dict[str, float]:
        """The likeliest tokens, the chosen one among them."""
        return named(self._name, [*piece.token.likeliest, (piece.token.id, piece.token.logprob)])


def _joined(before: list[Any] | None, after: list[Any] | None) -> list[Any] | None:
    return None if before is None or after is None else before + after
