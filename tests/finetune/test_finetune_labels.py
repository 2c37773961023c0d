"""Labels stand on the answers and their end of turn, on nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch

from easyllm.core.batches import answer_loss, pad, padding_id
from easyllm.core.chat import end_token_ids, ensure_template, seal, turn_end_id
from easyllm.core.conversations import Conversation, messages_of, read_conversations
from easyllm.core.errors import UserError
from easyllm.core.examples import IGNORED, Example, encode
from easyllm.core.models import load_model
from easyllm.finetune.audit import audit, fitting
from tiny_tune import CHATML, ROWS, tiny_tokenizer, write_base, write_rows


def conversations(tmp_path: Path, rows: list[dict[str, Any]] | None = None) -> list[Conversation]:
    return list(read_conversations([write_rows(tmp_path / "rows.jsonl", rows)], "finetune"))


def labelled(tokenizer: Any, example: Example) -> str:
    return str(tokenizer.decode([label for label in example.labels if label != IGNORED]))


def test_labels_spell_the_answers_with_their_end_of_turn(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    for example, row in zip(encode(tokenizer, conversations(tmp_path), "finetune"), ROWS, strict=True):
        turns = messages_of(row, "finetune", Path("f"), 1)
        wanted = "".join(m["content"] + "<|end|>" for m in turns if m["role"] == "assistant")
        assert labelled(tokenizer, example) == wanted


def test_pit_11_padding_that_equals_the_end_of_turn_leaves_its_label_in_place(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    assert padding_id(tokenizer) == tokenizer.eos_token_id == turn_end_id(tokenizer)
    batch = pad(encode(tokenizer, conversations(tmp_path), "finetune"), padding_id(tokenizer))
    answers = sum(m["role"] == "assistant" for row in ROWS for m in messages_of(row, "finetune", Path("f"), 1))
    assert int((batch.labels == tokenizer.eos_token_id).sum()) == answers
    assert not ((batch.labels != IGNORED) & (batch.attention_mask == 0)).any()


def test_a_template_that_rewrites_earlier_turns_is_refused_for_the_row(tmp_path: Path) -> None:
    forgetful = CHATML.replace("message['content']", "(message['content'] if loop.last else '...')")
    tokenizer = tiny_tokenizer(template=forgetful)
    with pytest.raises(UserError) as refused:
        encode(tokenizer, conversations(tmp_path, [ROWS[3]]), "finetune")
    assert [(p.code, p.line) for p in refused.value.problems] == [("TEMPLATE-002", 1)]


def test_a_template_that_refuses_a_role_names_the_row(tmp_path: Path) -> None:
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
    with pytest.raises(UserError) as refused:
        encode(tiny_tokenizer(template=strict), conversations(tmp_path), "finetune")
    assert [(p.code, p.line) for p in refused.value.problems] == [("TEMPLATE-001", 4)]
    assert "no system role" in str(refused.value)


def test_a_template_that_never_closes_an_answer_is_refused(tmp_path: Path) -> None:
    endless = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}assistant: "
    with pytest.raises(UserError) as refused:
        encode(tiny_tokenizer(template=endless), conversations(tmp_path), "finetune")
    assert [p.code for p in refused.value.problems] == ["TEMPLATE-003"]


def test_a_base_without_a_template_gets_a_plain_one_that_places_labels_exactly(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(template=None)
    decision = ensure_template(tokenizer)
    assert decision is not None
    assert decision.value == "plain"
    (example,) = encode(tokenizer, conversations(tmp_path, [ROWS[2]]), "finetune")
    assert labelled(tokenizer, example) == "门是红色的。<|end|>"
    assert ensure_template(tokenizer) is None
    with pytest.raises(ValueError, match="end-of-text"):
        ensure_template(tiny_tokenizer(template=None, eos=None))


def test_too_long_rows_are_refused_or_left_out_and_never_cut(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    examples = encode(tokenizer, conversations(tmp_path), "finetune")
    limit = sorted(len(e.ids) for e in examples)[-2]
    with pytest.raises(UserError) as refused:
        fitting(examples, limit, "refuse")
    (found,) = refused.value.problems
    assert (found.code, found.line, found.params["longest"]) == ("DATA-004", 4, max(len(e.ids) for e in examples))
    counted = audit(fitting(examples, limit, "drop"), turn_end_id(tokenizer) or -1)
    assert [entry["line"] for entry in counted.dropped] == [4]
    assert (counted.rows, counted.rows_without_labels, counted.rows_without_end) == (len(ROWS) - 1, 0, 0)
    with pytest.raises(UserError):
        fitting(examples, 3, "drop")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_padding_and_batching_do_not_change_the_loss(tmp_path: Path, family: str) -> None:
    model = load_model(write_base(tmp_path / "base", family), torch.float32)
    examples = encode(tiny_tokenizer(), conversations(tmp_path), "finetune")
    with torch.no_grad():
        together = answer_loss(model, pad(examples, 1)).item()
        alone = sum(answer_loss(model, pad([example], 1)).item() for example in examples)
        stock = 0.0
        for example in examples:  # transformers' own loss, a mean over labels
            mean = model(input_ids=torch.tensor([example.ids]), labels=torch.tensor([example.labels])).loss
            stock += mean.item() * example.label_tokens
    assert together == pytest.approx(alone, rel=1e-5)
    assert together == pytest.approx(stock, rel=1e-5)


def test_the_seal_sees_a_changed_template_and_survives_saving(tmp_path: Path) -> None:
    from easyllm.core.chat import load_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    assert seal(load_tokenizer(tmp_path)) == seal(tokenizer)
    assert (
        seal(tiny_tokenizer(template=CHATML.replace("assistant\n", "assistant:\n")))["hash"] != seal(tokenizer)["hash"]
    )


def test_an_answer_ends_at_the_templates_turn_end_even_if_the_base_says_otherwise() -> None:
    tokenizer = tiny_tokenizer()
    assert end_token_ids(tokenizer, {"eos_token_id": 0}) == [0, 1]
    assert end_token_ids(tokenizer, {"eos_token_id": [1, 0]}) == [1, 0]
    assert end_token_ids(tokenizer, None) == [1]
