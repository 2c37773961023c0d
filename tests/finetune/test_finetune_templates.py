"""Which chat template rows are rendered by, and where the labels stand under each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.chat import load_tokenizer, render, seal, turn_end_id
from easyllm.core.conversations import Conversation, read_conversations
from easyllm.core.errors import UserError
from easyllm.core.examples import IGNORED, Example, Labels, encode
from easyllm.core.templates import CHATML_TOKENS, marked, our_template, portable
from easyllm.finetune.rows import prepare
from tiny_tune import CHATML, FINETUNE, ROWS, check, make_job, tiny_tokenizer, tune, write_base, write_rows

# Thoughts stay in the last answer and are dropped from earlier ones, as reasoning models' templates do.
THINKING = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] }}{% for call in m['tool_calls'] or [] %}"
    "{{ '<call>' + (call['function'] | tojson) + '</call>' }}{% endfor %}{{ '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
WITH_TOOLS = "{% if tools %}{{ '<|start|>system\n' + (tools | tojson) + '<|end|>\n' }}{% endif %}" + THINKING
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
TOOL = {"type": "function", "function": {"name": "add"}}
CALLING: dict[str, Any] = {
    "tools": [TOOL],
    "messages": [
        {"role": "user", "content": "2 + 3?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "It is 5."},
    ],
}
LABELS: tuple[Labels, ...] = ("assistant", "last", "all")


def read(tmp_path: Path, rows: list[dict[str, Any]]) -> list[Conversation]:
    return list(read_conversations([write_rows(tmp_path / "some.jsonl", rows)], "finetune"))


def learnt(tokenizer: Any, example: Example) -> list[str]:
    """Every stretch of labels, as text."""

    def stretches() -> Iterator[list[int]]:
        run: list[int] = []
        for label in [*example.labels, IGNORED]:
            if label != IGNORED:
                run.append(label)
            elif run:
                yield run
                run = []

    return [tokenizer.decode(run) for run in stretches()]


@pytest.mark.parametrize("name", ["plain", "chatml", "alpaca"])
def test_marks_and_beginnings_place_the_same_labels_in_templates_of_ours(tmp_path: Path, name: str) -> None:
    tokenizer = tiny_tokenizer(template=our_template(name))
    tokenizer.add_tokens(list(CHATML_TOKENS), special_tokens=True)
    rows = read(tmp_path, ROWS)
    by_marks = encode(tokenizer, rows, "finetune")
    sealed = seal(tokenizer)
    tokenizer.chat_template = portable(our_template(name))
    assert not marked(tokenizer.chat_template)
    by_beginnings = encode(tokenizer, rows, "finetune")
    assert seal(tokenizer) == sealed
    assert [(e.ids, e.labels) for e in by_marks] == [(e.ids, e.labels) for e in by_beginnings]
    assert all(e.label_tokens for e in by_marks)


def test_white_space_around_marks_renders_the_same_without_them() -> None:
    words = "{%- for m in messages %} {%- generation -%} {{ m['content'] }} {%- endgeneration %} x {% endfor %}"
    one, other = tiny_tokenizer(template=words), tiny_tokenizer(template=portable(words))
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert render(one, said, False) == render(other, said, False)


def test_a_mark_that_leaves_the_end_of_turn_outside_still_teaches_it(tmp_path: Path) -> None:
    inside = CHATML.replace(
        "{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>' + '\n' }}",
        "{{ '<|start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}{% generation %}"
        "{{ message['content'] }}{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}{{ '<|end|>\n' }}",
    )
    tokenizer, stock = tiny_tokenizer(template=inside), tiny_tokenizer()
    rows = read(tmp_path, ROWS)
    assert [e.labels for e in encode(tokenizer, rows, "f")] == [e.labels for e in encode(stock, rows, "f")]


def test_a_template_that_drops_earlier_thoughts_makes_one_example_of_each_answer(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(template=THINKING)
    rows = read(tmp_path, [ROWS[3]])
    examples = encode(tokenizer, rows, "finetune")
    assert [learnt(tokenizer, e) for e in examples] == [
        ["<think>\n\n</think>\n\nHello, who is it?<|end|>"],
        ["<think>\n\n</think>\n\nRed.<|end|>"],
    ]
    for example, turn in zip(examples, (2, 4), strict=True):  # exactly what a server asks the model with
        asked = render(tokenizer, list(rows[0].messages[:turn]), True)
        assert example.ids[: len(asked)] == asked
        assert set(example.labels[: len(asked)]) == {IGNORED}
    (last,) = encode(tokenizer, rows, "finetune", "last")
    assert last == examples[1]


def test_calls_of_tools_are_learnt_where_the_template_writes_them(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(template=WITH_TOOLS)
    first, second = encode(tokenizer, read(tmp_path, [CALLING]), "finetune")
    assert learnt(tokenizer, first)[0].endswith('<call>{"name": "add", "arguments": {"a": 2}}</call><|end|>')
    assert learnt(tokenizer, second) == ["<think>\n\n</think>\n\nIt is 5.<|end|>"]
    assert '"function": {"name": "add"}' in tokenizer.decode(second.ids)


@pytest.mark.parametrize(("template", "words"), [(CHATML, "calls of tools"), (THINKING, "passes over the tools")])
def test_a_template_that_passes_over_tools_is_refused(tmp_path: Path, template: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        encode(tiny_tokenizer(template=template), read(tmp_path, [ROWS[0], CALLING]), "finetune")
    (found,) = refused.value.problems
    assert (found.code, found.line) == ("TEMPLATE-001", 2)
    assert words in found.what


@pytest.mark.parametrize(
    "expression",
    [
        "m['content'].encode('ascii')",
        "'{1}'.format(m['content'])",
        "1 // (m['content'] | length - 6)",
        "none.role.name",
    ],
)
def test_a_template_that_fails_on_a_row_names_it(tmp_path: Path, expression: str) -> None:
    words = "你好你好你好"
    fails = "{% for m in messages if m['content'] == '" + words + "' %}{{ " + expression + " }}{% endfor %}"
    row = {"instruction": words, "output": "5"}
    for labels in LABELS:
        with pytest.raises(UserError) as refused:
            encode(tiny_tokenizer(template=CHATML + fails), read(tmp_path, [ROWS[0], row]), "finetune", labels)
        (found,) = refused.value.problems
        assert (found.code, found.line) == ("TEMPLATE-001", 2)


def test_a_row_of_which_the_template_writes_nothing_is_refused(tmp_path: Path) -> None:
    short = CHATML.replace("%}{{ '<|start|>' +", "%}{% if message['content'] | length < 60 %}{{ '<|start|>' +", 1)
    tokenizer = tiny_tokenizer(template=short.replace("'\n' }}{% endfor", "'\n' }}{% endif %}{% endfor", 1))
    long = {"instruction": "word " * 60, "output": "word " * 60}
    for labels in LABELS:
        with pytest.raises(UserError) as refused:
            encode(tokenizer, read(tmp_path, [ROWS[0], long]), "finetune", labels)
        (found,) = refused.value.problems
        assert (found.code, found.line) == ("TEMPLATE-001" if labels == "all" else "TEMPLATE-002", 2)


def test_a_template_that_wants_a_system_message_first_is_refused(tmp_path: Path) -> None:
    wants = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('system first') }}{% endif %}"
    with pytest.raises(UserError, match=r"TEMPLATE-005.*system first"):
        encode(tiny_tokenizer(template=wants + CHATML), read(tmp_path, [ROWS[3]]), "finetune")


def test_a_template_that_fails_at_other_words_than_the_rows_is_sealed_without_them(tmp_path: Path) -> None:
    # The golden conversations of the seal are not of ASCII alone, as these rows are.
    strict = CHATML.replace("message['content'] +", "message['content'].encode('ascii').decode('ascii') +")
    (tmp_path / "mine.jinja").write_text(strict, "utf-8")
    write_base(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl", ROWS[:2])
    job = make_job(tmp_path, "finetune", FINETUNE | {"template_file": "mine.jinja"})
    golden = seal(prepare(job, tmp_path / "base").tokenizer)["golden"]
    assert [entry["ids"] is None for entry in golden] == [False, False, True, True, True, True, True, True]


def test_labels_stand_on_the_last_answer_or_on_everything(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    rows = read(tmp_path, [ROWS[3], {"prompt": ROWS[3]["messages"][:4], "completion": ROWS[3]["messages"][4:]}])
    assert [learnt(tokenizer, e) for e in encode(tokenizer, rows, "f")] == [
        ["Hello, who is it?<|end|>", "Red.<|end|>"],
        ["Red.<|end|>"],
    ]
    assert [learnt(tokenizer, e) for e in encode(tokenizer, rows, "f", "last")] == [["Red.<|end|>"]] * 2
    whole = encode(tokenizer, rows, "f", "all")[0]
    assert whole.labels == [IGNORED, *whole.ids[1:]]
    assert turn_end_id(tokenizer) in whole.labels


def test_chatml_gives_the_tokenizer_its_tokens_and_the_model_rows_for_them(tmp_path: Path) -> None:
    manifest = tune(tmp_path, template="chatml", epochs=1)
    out = tmp_path / "run" / "finetune"
    saved = load_tokenizer(out)
    assert len(saved) == len(load_tokenizer(tmp_path / "base")) + 2
    assert saved.decode([manifest.records["template"]["turn_end_id"]]) == "<|im_end|>"
    assert not marked(saved.chat_template)
    assert seal(saved)["hash"] == manifest.records["template"]["hash"]


def test_a_template_file_is_used_sealed_and_saved(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(CHATML.replace("<|start|>", "<|start|>the "), "utf-8")
    write_base(tmp_path / "base")
    manifest = tune(tmp_path, template_file="mine.jinja", epochs=1)
    saved = load_tokenizer(tmp_path / "run" / "finetune")
    assert "<|start|>the " in saved.chat_template
    assert seal(saved)["hash"] == manifest.records["template"]["hash"] != seal(tiny_tokenizer())["hash"]


@pytest.mark.parametrize(
    ("changes", "text", "code", "line"),
    [
        ({"template": "plain"}, CHATML, "TEMPLATE-010", None),
        ({}, "{% for m in messages %}\n{{ m['content'] }\n{% endfor %}", "TEMPLATE-011", 2),
        ({}, " \n", "TEMPLATE-011", None),
        ({}, "{% for m in messages %}\n{{ m['content'] | trimm }}{% endfor %}", "TEMPLATE-011", 2),
        ({}, "{{ messages[0]['content'] }}{% break %}", "TEMPLATE-011", None),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_before_anything_runs(
    tmp_path: Path, changes: dict[str, Any], text: str, code: str, line: int | None
) -> None:
    write_base(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "mine.jinja").write_text(text, "utf-8")
    job = make_job(tmp_path, "finetune", FINETUNE | changes | {"template_file": "mine.jinja"})
    assert [(p.code, p.line) for p in check(job)] == [(code, line)]
