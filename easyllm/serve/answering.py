"""One request from prompt ids to pieces of text, with the reason why it ended. Knows no dialect."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from easyllm.core.chat import special_ids
from easyllm.serve.contract import Ask, Engine, Finish, Piece
from easyllm.serve.text import Detokenizer, StopStrings


class ModelVoice:
    """A model's engine and its tokenizer: what answers."""

    def __init__(self, engine: Engine, tokenizer: Any, ends: list[int]) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self._ends = frozenset(ends)
        self._special = special_ids(tokenizer) | self._ends

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """The answer token by token. Closing the generator stops the engine's work on it."""
        detokenizer = Detokenizer(self.tokenizer)
        stops = StopStrings(ask.stops, ask.keep_stop)
        left = ask.max_new_tokens
        generated = self.engine.generate(ask.ids, ask.max_new_tokens, ask.sampling, ask.adapter)
        async with aclosing(generated) as tokens:
            async for token in tokens:
                left -= 1
                ended = token.id in self._ends
                fresh = "" if ended else detokenizer.add(token.id)
                if ended or not left:
                    fresh += detokenizer.finish()
                text, hit = stops.add(fresh)
                finish: Finish | None = "eos_token" if ended else None if left else "length"
                if hit:
                    finish = "stop_sequence"
                elif finish:
                    text += stops.finish()
                yield Piece(token, token.id in self._special, text, finish, len(fresh))
                if finish:
                    return
