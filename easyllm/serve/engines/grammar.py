"""Answers that belong to a language: a JSON schema or a regular expression becomes a mask over the vocabulary.

The work is llguidance's. It reads any tokenizer's tokens as bytes, so that a string may end in the middle of a
token's character; it has no dependencies; and it refuses a schema's keyword that it cannot keep. (xgrammar wants
triton, which comes with CUDA only; outlines-core walks a whole automaton over the vocabulary before the first token.)
Light: imports no torch, so that routes can name what is refused here.
"""

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from easyllm.serve.contract import EngineFailed, Grammar

UNPROCESSABLE = 422
MOST_KEPT = 64
"""Compiled grammars kept for the next request that asks for the same."""
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
    """Compiles grammars for one tokenizer; thread-safe, since compiling takes its time and runs off the event loop."""

    def __init__(self, tokenizer: Any, vocabulary_size: int, ends: list[int]) -> None:
        """``vocabulary_size`` is the width of the model's logits, which may go beyond the tokenizer's last id."""
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size
        self._ends = ends
        self._words: Any = None
        self._kept: OrderedDict[Grammar, Any] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, grammar: Grammar) -> Follower:
        """The beginning of ``grammar``. Raises GrammarRefused where it is invalid or cannot be kept."""
        with self._lock:
            if grammar not in self._kept:
                self._kept[grammar] = self._compile(grammar)
                if len(self._kept) > MOST_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(grammar)
            return Follower(self._kept[grammar].deep_copy())

    def _compile(self, grammar: Grammar) -> Any:
        from llguidance import LLMatcher, LLParserLimits
        from llguidance.hf import from_tokenizer

        source = _source(grammar)
        if self._words is None:
            self._words = from_tokenizer(self._tokenizer, n_vocab=self._vocabulary_size, eos_token=self._ends)
        limits = LLParserLimits(verbose_errors=False)
        wrong, notes = LLMatcher.validate_grammar_with_warnings(source, self._words, limits=limits)
        if wrong:
            raise GrammarRefused(grammar.kind, _one_line(notes[0]))
        matcher = LLMatcher(self._words, source, log_level=0, limits=limits)
        matcher.compute_bitmask()
        if matcher.is_error():
            raise GrammarRefused(grammar.kind, _one_line(matcher.get_error()))
        return matcher


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
    return schema


def _one_line(text: str) -> str:
    line = " ".join(text.replace("<non-verbose/>", "").split())
    return line if len(line) <= LONGEST_REASON else line[:LONGEST_REASON] + " ..."
