"""Answers that belong to a language: a JSON schema or a regular expression becomes a mask over the vocabulary.

The work is llguidance's. It reads any tokenizer's tokens as bytes, so that a string may end in the middle of a
token's character; it has no dependencies; and it refuses a schema's keyword that it cannot keep. (xgrammar wants
triton, which comes with CUDA only; outlines-core walks a whole automaton over the vocabulary before the first token.)
Light: imports no torch, so that routes can name what is refused here.
"""

import asyncio
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

from easyllm.serve.contract import EngineFailed, Grammar

T = TypeVar("T")
UNPROCESSABLE = 422
MOST_CHARACTERS = 65_536
"""Of one grammar. What it takes to compile grows with it: up to a second, and up to 25 MB, at this length."""
MOST_KEPT, MOST_KEPT_CHARACTERS = 64, 4 * MOST_CHARACTERS
"""Of all compiled grammars that are kept for the next request that asks for the same."""
MOST_REMAINDERS = 10_000
"""What all ``multipleOf`` of a schema together may come to: there is a state for every remainder."""
MOST_SECONDS = 20.0
"""A grammar that is not compiled by then is refused; its thread ends with the process at the latest."""
LONGEST_REASON = 400
WHITESPACE = r"[ ]|\n[ \t]{0,32}"
"""Between a JSON text's tokens: what people write. Unbounded, a small model may go on with spaces for ever."""
ANY_OBJECT = '{"type": "object"}'


class GrammarRefused(EngineFailed):
    """A schema or expression that is invalid, or that cannot be kept exactly; says which part and why."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"the grammar ({kind}) cannot be used: {reason}", UNPROCESSABLE)
        self.kind = kind
        self.reason = reason


@dataclass
class Follower:
    """One answer's place in its grammar."""

    matcher: Any

    def allowed(self) -> bytes:
        """One bit for each token, lowest first: whether it may come next. An end token only where the text is whole."""
        return bytes(self.matcher.compute_bitmask())

    def take(self, token: int) -> None:
        self.matcher.consume_token(token)

    @property
    def trouble(self) -> str | None:
        """Why it cannot go on: a limit of the library's was reached; None when it can."""
        return _one_line(self.matcher.get_error()) if self.matcher.is_error() else None


class Grammars:
    """Compiles grammars for one tokenizer, off the event loop and several at a time."""

    def __init__(self, tokenizer: Any, vocabulary_size: int, ends: list[int]) -> None:
        """``vocabulary_size`` is the width of the model's logits, which may go beyond the tokenizer's last id."""
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size
        self._ends = ends
        self._words: Any = None
        self._kept: OrderedDict[Grammar, Any] = OrderedDict()
        self._lock = threading.Lock()

    async def follower(self, grammar: Grammar) -> Follower:
        """As ``compile``, beside the event loop, and refused where it takes more than MOST_SECONDS."""
        try:
            return await asyncio.wait_for(_beside(lambda: self.compile(grammar)), MOST_SECONDS)
        except TimeoutError as error:
            raise GrammarRefused(grammar.kind, f"it takes more than {MOST_SECONDS:g} s to compile") from error

    def compile(self, grammar: Grammar) -> Follower:
        """The beginning of ``grammar``. Raises GrammarRefused where it is invalid or cannot be kept."""
        with self._lock:
            found = self._kept.get(grammar)
        if found is None:
            found = self._compile(grammar)
        with self._lock:
            self._kept[grammar] = found
            self._kept.move_to_end(grammar)
            while len(self._kept) > MOST_KEPT or sum(len(kept.text) for kept in self._kept) > MOST_KEPT_CHARACTERS:
                self._kept.popitem(last=False)
            return Follower(found.deep_copy())

    def _compile(self, grammar: Grammar) -> Any:
        from llguidance import LLMatcher, LLParserLimits

        if len(grammar.text) > MOST_CHARACTERS:
            told = f"it has {len(grammar.text):,} characters; {MOST_CHARACTERS:,} are the most"
            raise GrammarRefused(grammar.kind, told)
        try:
            source = _source(grammar)
        except (ValueError, RecursionError) as error:  # numbers that JSON does not have, letters that are none, depth
            raise GrammarRefused(grammar.kind, _one_line(str(error))) from error
        with self._lock:
            self._require_words()
        limits = LLParserLimits(verbose_errors=False)
        wrong, notes = LLMatcher.validate_grammar_with_warnings(source, self._words, limits=limits)
        if wrong:
            raise GrammarRefused(grammar.kind, _one_line(notes[0]))
        matcher = LLMatcher(self._words, source, log_level=0, limits=limits)
        matcher.compute_bitmask()
        if matcher.is_error():
            raise GrammarRefused(grammar.kind, _one_line(matcher.get_error()))
        return matcher

    def _require_words(self) -> None:
        from llguidance.hf import from_tokenizer

        if self._words is None:
            self._words = from_tokenizer(self._tokenizer, n_vocab=self._vocabulary_size, eos_token=self._ends)


async def _beside(work: Callable[[], T]) -> T:
    """The result of ``work``, made in a thread that nobody waits for: one of the loop's own would hold up its end."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: Exception | None) -> None:
        if result.done():  # whoever asked has left
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]  # T may be None

    def run() -> None:
        value, error = None, None
        try:
            value = work()
        except Exception as raised:  # noqa: BLE001  # it is raised where it is awaited
            error = raised
        with suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name="compile-grammar", daemon=True).start()
    return await result


def knows(tokenizer: Any) -> bool:
    """Whether grammars can be had for ``tokenizer``: its tokens' bytes must be known, as those of a fast one are."""
    return hasattr(tokenizer, "backend_tokenizer")


def _source(grammar: Grammar) -> str:
    """``grammar`` as llguidance takes it."""
    from llguidance import LLMatcher

    if grammar.kind == "regex":
        return str(LLMatcher.grammar_from_regex(grammar.text))
    # Set here, since a schema's own "x-guidance" could else turn the refusal of unknown keywords off.
    exact: Any = {"lenient": False, "coerce_one_of": False, "whitespace_pattern": WHITESPACE}
    schema = ANY_OBJECT if grammar.kind == "json_object" else json.dumps(_schema(grammar.text))
    return str(LLMatcher.grammar_from_json_schema(schema, overrides=exact))


def _schema(text: str) -> dict[str, Any]:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GrammarRefused("json_schema", f"it is not JSON: {error}") from error
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise GrammarRefused("json_schema", "a schema that allows anything is an object")
    remainders = math.lcm(*_divisors(schema))
    if remainders > MOST_REMAINDERS:
        told = f"its `multipleOf` come to {remainders:,} together; {MOST_REMAINDERS:,} are the most"
        raise GrammarRefused("json_schema", told)
    return schema


def _divisors(schema: Any) -> Iterator[int]:
    """The digits of every ``multipleOf`` in ``schema``, as a whole number."""
    inner: Any = schema.items() if isinstance(schema, dict) else enumerate(schema) if isinstance(schema, list) else ()
    for key, value in inner:
        if key == "multipleOf" and isinstance(value, int | float) and math.isfinite(value) and value:
            number = Decimal(str(abs(value))).as_tuple()
            exponent = number.exponent if isinstance(number.exponent, int) else 0
            yield int("".join(map(str, number.digits))) * 10 ** max(0, exponent)
        else:
            yield from _divisors(value)


def _one_line(text: str) -> str:
    line = " ".join(text.replace("<non-verbose/>", "").split())
    return line if len(line) <= LONGEST_REASON else line[:LONGEST_REASON] + " ..."
