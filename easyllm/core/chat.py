"""Conversations: rows become messages, messages become token ids, and a seal proves that ids stay the same.

Training, merging and serving must render a conversation to exactly the same ids. ``seal`` renders golden
conversations and hashes the ids; whoever holds the record can prove his own tokenizer against it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from easyllm.core.artifact import Decision
from easyllm.core.conversations import Message
from easyllm.core.digest import of_value
from easyllm.core.errors import refuse
from easyllm.core.messages import say
from easyllm.core.templates import our_template, portable

GOLDEN: tuple[tuple[Message, ...], ...] = (
    ({"role": "user", "content": "What is the capital of France?"},),
    ({"role": "user", "content": "用一句话介绍你自己。"},),
    ({"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "12 × 12 = ?"}),
    (
        {"role": "user", "content": "Write two lines.\n\n  The second is indented."},
        {"role": "assistant", "content": "One\n  two 🌊"},
        {"role": "user", "content": "再来一次 — <b>naïve</b> \t tabs"},
    ),
)
"""Two languages, a system line, several turns, white space, an emoji and digits: what templates get wrong."""
TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
"""What a template raises while it renders: refusals of its own, and faults of the Python in its expressions."""


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a local model directory, its chat template with it."""
    return AutoTokenizer.from_pretrained(str(directory), local_files_only=True)


def render(tokenizer: Any, messages: list[Message], add_generation_prompt: bool) -> list[int]:
    """Token ids of a conversation; with ``add_generation_prompt`` they end where the answer begins.

    Raises one of TEMPLATE_ERRORS where the template refuses the messages (a role it does not know, say), fails at
    them, or where the tokenizer has none.
    """
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=False
    )
    return list(ids)


def render_text(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any], add_generation_prompt: bool) -> str:
    """The text whose ids ``render`` gives."""
    text: str = tokenizer.apply_chat_template(
        list(messages), tools=list(tools) or None, add_generation_prompt=add_generation_prompt, tokenize=False
    )
    return text


def render_question(tokenizer: Any, question: str, stage: str, key: str) -> list[int]:
    """Token ids of a conversation that ``question`` begins. UserError TEMPLATE-006 where the template cannot write it.

    ``stage`` and ``key`` say to whom the model and its template belong.
    """
    try:
        return render(tokenizer, [{"role": "user", "content": question}], True)
    except TEMPLATE_ERRORS as error:
        shown = question if len(question) <= 60 else f"{question[:60]} ..."
        raise refuse("TEMPLATE-006", stage=stage, key=key, question=shown, reason=str(error)) from error


def render_spans(
    tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any]
) -> tuple[str, list[tuple[int, int]]]:
    """A whole conversation as text, and where the template's {% generation %} blocks stand in it."""
    texts, spans = render_jinja_template(
        conversations=[[{key: value for key, value in message.items() if value is not None} for message in messages]],
        tools=list(tools) or None,
        chat_template=tokenizer.chat_template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    return texts[0], list(spans[0])


def ensure_template(tokenizer: Any) -> Decision | None:
    """Give a tokenizer without a chat template our plain one, in place; the decision says so, None if it had one.

    Raises ValueError where there is no end-of-text token to close a turn with.
    """
    if tokenizer.chat_template:
        return None
    if tokenizer.eos_token is None:
        raise ValueError("the tokenizer has neither a chat template nor an end-of-text token")
    tokenizer.chat_template = portable(our_template("plain"))
    return Decision("chat_template", "plain", say("why_plain_template", end=tokenizer.eos_token))


def turn_end_id(tokenizer: Any) -> int | None:
    """The special token with which the template closes an answer, None where it closes it with text only."""
    question: list[Message] = [{"role": "user", "content": "a"}]
    answered = [*question, {"role": "assistant", "content": "b"}]
    whole, prompt = render(tokenizer, answered, False), render(tokenizer, question, True)
    # A prompt may hold more than an answer's beginning (an open <think>): the tail begins where they part.
    same = next((at for at, (one, other) in enumerate(zip(whole, prompt, strict=False)) if one != other), len(prompt))
    tail = whole[same:]
    special = special_ids(tokenizer)
    return next((token for token in tail if token in special), None)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every id that stands for a control token rather than for text."""
    added = tokenizer.added_tokens_decoder
    return {*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}


def end_token_ids(tokenizer: Any, generation_config: Any) -> list[int]:
    """Ids at which an answer is over: generation_config's eos and the template's turn end, in that order.

    ``generation_config`` is a GenerationConfig, its dict, or None. A tuned model that stops at its base's eos
    only runs on and on (hiyouga/LLaMA-Factory#7454).
    """
    given = generation_config or {}
    eos = given.get("eos_token_id") if isinstance(given, dict) else given.eos_token_id
    ends = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
    try:
        turn_end = turn_end_id(tokenizer) if tokenizer.chat_template else None
    except TEMPLATE_ERRORS:  # it writes no answers, so it closes none
        turn_end = None
    for extra in (turn_end, None if ends else tokenizer.eos_token_id):
        if extra is not None and extra not in ends:
            ends.append(extra)
    return ends


def seal(tokenizer: Any) -> dict[str, Any]:
    """{"hash", "golden": [{"messages", "add_generation_prompt", "ids"}]}: ids is None where the template cannot."""
    golden = []
    for conversation in GOLDEN:
        for prompt in (True, False):
            ids: list[int] | None
            try:
                ids = render(tokenizer, [dict(message) for message in conversation], prompt)
            except TEMPLATE_ERRORS:
                ids = None
            golden.append({"messages": list(conversation), "add_generation_prompt": prompt, "ids": ids})
    return {"hash": of_value([entry["ids"] for entry in golden]), "golden": golden}
