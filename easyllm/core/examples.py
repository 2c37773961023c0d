"""Conversations become token ids with labels on what shall be learnt.

Where answers stand is known from the template alone: from its {% generation %} marks where it has them; else the
text before an answer, rendered with the generation prompt, must be the beginning of the text with it. Ids are cut
at those places by encoding the texts up to them. Labels are never found by searching for words, nor by comparing
ids with the padding id, which is the end of a turn in many models.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jinja2

from easyllm.core.chat import TEMPLATE_ERRORS, render_spans, render_text, special_ids, turn_end_id
from easyllm.core.conversations import Conversation, Message
from easyllm.core.errors import UserError, refuse
from easyllm.core.messages import say
from easyllm.core.progress import progress
from easyllm.core.templates import marked

IGNORED = -100
TOGETHER = 256
"""Rows that are encoded in one call: a fast tokenizer spreads them over its threads."""
SHOWN_FROM = 2_000
"""So many rows take long enough for a progress bar."""

Labels = Literal["assistant", "last", "all"]


@dataclass(frozen=True)
class Example:
    """One conversation as ids, with a label (the id itself) on every token to learn and IGNORED elsewhere."""

    ids: list[int]
    labels: list[int]
    source: Conversation

    @property
    def label_tokens(self) -> int:
        return sum(label != IGNORED for label in self.labels)


class _Span(NamedTuple):
    """Characters of an answer, and its message counted from 0."""

    start: int
    end: int
    turn: int


class _Text(NamedTuple):
    """One example to be, as text."""

    text: str
    spans: list[_Span]
    source: Conversation


def encode(
    tokenizer: Any, conversations: Iterable[Conversation], stage: str, labels: Labels = "assistant"
) -> list[Example]:
    """Examples in order. Raises UserError TEMPLATE-001 to TEMPLATE-005 where labels cannot be placed exactly.

    A conversation whose earlier answers the template rewrites (it may leave out what was thought before them) becomes
    one example for each answer, the way the model will be asked for it.
    """
    try:
        end = turn_end_id(tokenizer)
    except TEMPLATE_ERRORS as error:
        raise refuse("TEMPLATE-005", stage=stage, reason=str(error)) from error
    if end is None:
        raise refuse("TEMPLATE-003", stage=stage)
    rows = list(conversations)
    ends = special_ids(tokenizer)
    found: list[Example] = []
    bar = progress("encode", len(rows), "rows") if len(rows) >= SHOWN_FROM else nullcontext()
    with bar as shown:
        for start in range(0, len(rows), TOGETHER):
            some = rows[start : start + TOGETHER]
            texts = [text for row in some for text in _texts(tokenizer, row, labels, stage)]
            found += _encode_some(tokenizer, texts, labels, end, ends, stage)
            if shown:
                shown.advance(len(some))
    return found


def _encode_some(
    tokenizer: Any, texts: Sequence[_Text], labels: Labels, end: int, ends: set[int], stage: str
) -> Iterator[Example]:
    """One call for the whole texts and for their beginnings up to where answers start and stop."""
    cuts = [(text.text[: span.start], text.text[: span.end]) for text in texts for span in text.spans]
    wanted = [text.text for text in texts] + [beginning for cut in cuts for beginning in cut]
    # No special tokens beside the template's own, as apply_chat_template encodes.
    ids = iter(tokenizer(wanted, add_special_tokens=False)["input_ids"]) if wanted else iter(())
    whole = [list(next(ids)) for _ in texts]
    for text, tokens in zip(texts, whole, strict=True):
        if len(tokens) < 2:  # the first token of a row is no label
            raise _template_refuses(say("template_nothing"), text.source, stage)
        if labels == "all":
            yield Example(tokens, [IGNORED, *tokens[1:]], text.source)
            continue
        placed = [IGNORED] * len(tokens)
        for span in text.spans:
            before, after = list(next(ids)), list(next(ids))
            if tokens[: len(before)] != before or tokens[: len(after)] != after:
                raise _cannot_place(text.source, span.turn, stage)
            stop = _stop(tokens, len(before), len(after), end, ends)
            if stop is None:
                raise refuse("TEMPLATE-003", stage=stage)
            placed[len(before) : stop + 1] = tokens[len(before) : stop + 1]
        yield Example(tokens, placed, text.source)


def _stop(tokens: list[int], start: int, after: int, end: int, ends: set[int]) -> int | None:
    """Where an answer's labels stop: at the end of the turn, which may follow a {% generation %} block directly.

    The template may add a newline behind it; the model stops before it and need not learn it. A call of a tool may
    end with another special token than an answer.
    """
    if after < len(tokens) and tokens[after] == end and end not in tokens[start:after]:
        return after
    span = range(after - 1, start - 1, -1)
    return next((at for at in span if tokens[at] == end), next((at for at in span if tokens[at] in ends), None))


def _texts(tokenizer: Any, row: Conversation, labels: Labels, stage: str) -> list[_Text]:
    """The row as one text, or as one for each answer where the template rewrites earlier ones."""
    try:
        _tools_are_written(tokenizer, row)
        if labels == "all":
            return [_Text(render_text(tokenizer, row.messages, row.tools, False), [], row)]
        if marked(tokenizer.chat_template):
            return [_marked(tokenizer, row, labels, stage)]
        return _by_prefix(tokenizer, row, labels, stage)
    except TEMPLATE_ERRORS as error:
        raise _template_refuses(str(error), row, stage) from error


def _answers(row: Conversation, labels: Labels) -> list[int]:
    turns = [at for at, message in enumerate(row.messages) if message["role"] == "assistant" and at >= row.given]
    return turns[-1:] if labels == "last" else turns


def _marked(tokenizer: Any, row: Conversation, labels: Labels, stage: str) -> _Text:
    text, spans = render_spans(tokenizer, row.messages, row.tools)
    turns = [at for at, message in enumerate(row.messages) if message["role"] == "assistant"]
    if len(spans) != len(turns):
        raise _cannot_place(row, turns[min(len(spans), len(turns) - 1)], stage)
    wanted = _answers(row, labels)
    return _Text(text, [_Span(*span, turn) for span, turn in zip(spans, turns, strict=True) if turn in wanted], row)


def _by_prefix(tokenizer: Any, row: Conversation, labels: Labels, stage: str) -> list[_Text]:
    whole = render_text(tokenizer, row.messages, row.tools, False)
    spans, parts, rewritten = [], [], False
    for turn in _answers(row, labels):
        before = render_text(tokenizer, row.messages[:turn], row.tools, True)
        last = turn + 1 == len(row.messages)
        after = whole if last else render_text(tokenizer, row.messages[: turn + 1], row.tools, False)
        if not after.startswith(before):
            raise _cannot_place(row, turn, stage)
        span = _Span(len(before), len(after), turn)
        spans.append(span)
        parts.append(_Text(after, [span], row))
        rewritten = rewritten or not whole.startswith(after)
    return parts if rewritten else [_Text(whole, spans, row)]


def _tools_are_written(tokenizer: Any, row: Conversation) -> None:
    """A template that passes over tools or their calls would train on a conversation that makes no sense."""
    called = any("tool_calls" in message for message in row.messages)
    if not row.tools and not called:
        return
    mute: list[Message] = [{key: m[key] for key in m if key != "tool_calls"} for m in row.messages]
    said = render_text(tokenizer, row.messages, row.tools, False)
    if called and said == render_text(tokenizer, mute, row.tools, False):
        raise jinja2.TemplateError(say("template_without_calls"))
    if row.tools and said == render_text(tokenizer, row.messages, (), False):
        raise jinja2.TemplateError(say("template_without_tools"))


def _cannot_place(row: Conversation, turn: int, stage: str) -> UserError:
    return refuse("TEMPLATE-002", stage=stage, file=row.file, line=row.line, turn=turn + 1)


def _template_refuses(reason: str, row: Conversation, stage: str) -> UserError:
    return refuse("TEMPLATE-001", stage=stage, file=row.file, line=row.line, reason=reason)
