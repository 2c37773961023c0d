"""align's rows, rates and table: what is read, rendered, left out and told. Tiny models, few steps."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from easyllm.align.encoding import encode_rows
from easyllm.align.preferences import Preference, read_preferences, split
from easyllm.core.artifact import Manifest
from easyllm.core.errors import UserError
from tiny_tune import check, make_job, publish, tiny_tokenizer, tune, write_base, write_rows

THINKING = (
    "{% for m in messages %}{{ '<|start|>' + m.role + '\n' }}"
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' and not loop.last else m.content }}"
    "{{ '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
"""As of models that think: what was thought before an earlier answer is left out."""
CALLING = (
    "{% for tool in tools or [] %}{{ '<|start|>tool\n' + tool.name + '<|end|>\n' }}{% endfor %}"
    "{% for m in messages %}{{ '<|start|>' + m.role + '\n' + (m.reasoning_content or '') + m.content }}"
    "{% for call in m.tool_calls or [] %}{{ 'call ' + call.name }}{% endfor %}{{ '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
PAIR = {"prompt": "Which door?", "chosen": "Red.", "rejected": "No idea."}
PAIRS = [PAIR | {"prompt": f"Which of {n} doors?"} for n in range(12)]
ALIGN: dict[str, Any] = {
    "base": "base",
    "data": ["pairs.jsonl"],
    "learning_rate": 0.003,
    "sequence_tokens": 128,
    "max_steps": 1,
    "batch": {"global_samples": 4, "micro_samples": 2},
}


def align(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> Manifest:
    """One step of align on the tiny base in ``folder``."""
    write_base(folder / "base")
    write_rows(folder / "pairs.jsonl", rows)
    return publish(make_job(folder, "align", ALIGN | changes))


def read(folder: Path, *rows: dict[str, Any], objective: str = "dpo") -> list[Preference]:
    return list(read_preferences([write_rows(folder / "rows.jsonl", list(rows))], objective, "align"))


def words(row: Preference, template: str) -> tuple[str, str, str]:
    """(prompt, chosen, rejected) as the trainer gets them, in words."""
    tokenizer = tiny_tokenizer(template)
    [made] = encode_rows(tokenizer, [row], "align")
    assert made.chosen
    assert made.rejected
    prompt, chosen, rejected = (tokenizer.decode(ids) for ids in (made.prompt, made.chosen, made.rejected))
    return prompt, chosen, rejected


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("steps", "ratio"), [(1, 0.1), (10, 0.25), (7, 0.0)])
def test_every_step_has_the_rate_that_finetune_would_give_it(
    tmp_path: Path, schedule: Any, steps: int, ratio: float
) -> None:
    import torch
    from transformers import TrainingArguments

    from easyllm.align.run import SCHEDULES
    from easyllm.align.trainers import _Ours
    from easyllm.finetune.schedule import learning_rate

    made = _Ours()
    made.args = TrainingArguments(str(tmp_path), lr_scheduler_type=SCHEDULES[schedule], warmup_steps=ratio)
    made.optimizer, made.lr_scheduler = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5), None
    rates = []
    for _ in range(steps):
        rates += made.create_scheduler(steps).get_last_lr()
        made.optimizer.step()
        made.lr_scheduler.step()
    wanted = [learning_rate(step, steps, 0.5, ratio, schedule) for step in range(1, steps + 1)]
    assert rates == pytest.approx(wanted)
    assert min(rates) > 0


def test_a_run_of_one_step_trains_something(tmp_path: Path) -> None:
    made = align(tmp_path, PAIRS)
    [step] = csv.DictReader((tmp_path / "run" / "align" / "losses.csv").read_text("utf-8").splitlines())
    assert float(step["learning_rate"]) == pytest.approx(0.003)
    assert abs(made.metrics["train_margin"]) > 1e-4


def test_earlier_answers_that_the_template_rewrites_are_part_of_the_prompt(tmp_path: Path) -> None:
    asked = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "<think>hm</think>Who is it?"},
        {"role": "user", "content": "Add."},
    ]
    [row] = read(tmp_path, {"prompt": asked, "chosen": "<think>add</think>5", "rejected": "6"})
    prompt, chosen, rejected = words(row, THINKING)
    assert "Who is it?" in prompt
    assert "hm" not in prompt
    assert (chosen, rejected) == ("<think>add</think>5<|end|>", "6<|end|>")


def test_the_system_of_a_row_stands_before_its_prompt_in_every_form(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "Which door?"}
    answers = [{"role": "assistant", "content": text} for text in ("Red.", "No idea.")]
    rows = read(
        tmp_path,
        PAIR | {"system": "Be brief."},
        PAIR | {"system": "Be brief.", "prompt": [asked]},
        {"system": "Be brief.", "chosen": [asked, answers[0]], "rejected": [asked, answers[1]]},
        PAIR | {"system": ""},
    )
    system = {"role": "system", "content": "Be brief."}
    assert [row.prompt for row in rows] == [(system, asked)] * 3 + [(asked,)]
    [judged] = read(
        tmp_path, {"system": "Be brief.", "prompt": "Which door?", "completion": "Red.", "label": True}, objective="kto"
    )
    assert judged.prompt == (system, asked)
    with pytest.raises(UserError, match="ALIGN-002"):
        read(tmp_path, PAIR | {"system": 7})


def test_tools_calls_and_thoughts_reach_the_template(tmp_path: Path) -> None:
    calls = [{"name": "look", "arguments": {}}]
    asked = [
        {"role": "user", "content": "Which door?"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "red"},
    ]
    thought = {"role": "assistant", "reasoning_content": "Seen. ", "content": "Red."}
    again = {"role": "assistant", "tool_calls": calls}
    row = {"prompt": asked, "chosen": [thought], "rejected": [again], "tools": [{"name": "look"}]}
    [found] = read(tmp_path, row)
    prompt, chosen, rejected = words(found, CALLING)
    assert prompt.startswith("<|start|>tool\nlook<|end|>")
    assert "call look" in prompt
    assert (chosen, rejected) == ("Seen. Red.<|end|>", "call look<|end|>")
    assert read(tmp_path, row | {"tools": json.dumps([{"name": "look"}])})[0].digest == found.digest
    with pytest.raises(UserError, match="DATA-002"):
        read(tmp_path, row | {"tools": [7]})
    with pytest.raises(UserError, match="DATA-002"):
        read(tmp_path, row | {"rejected": [{"role": "assistant", "tool_calls": "look"}]})
    with pytest.raises(UserError, match="TEMPLATE-001"):  # not left out in silence
        words(found, THINKING)


def test_a_key_that_is_null_is_as_good_as_not_there(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "Which door?"}
    answers = [{"role": "assistant", "content": text} for text in ("Red.", "No idea.")]
    parted = {"prompt": None, "chosen": [asked, answers[0]], "rejected": [asked, answers[1]], "system": None}
    judged = {"prompt": "Which door?", "completion": "Red.", "label": False, "chosen": None, "rejected": None}
    [pair, single] = read(tmp_path, parted, judged, objective="kto")
    assert (pair.prompt, pair.chosen) == ((asked,), (answers[0],))
    assert (single.chosen, single.rejected) == (None, (answers[0],))
    with pytest.raises(UserError, match="ALIGN-001"):
        read(tmp_path, PAIR | {"rejected": None})


def test_the_table_invents_nothing_where_one_kind_of_answer_is_missing(tmp_path: Path) -> None:
    from easyllm.align import table

    rows = read(tmp_path, {"prompt": "Which door?", "completion": "Red.", "label": True}, objective="kto")
    encoded = encode_rows(tiny_tokenizer(), rows, "align")
    [line] = table.lines("held_out", encoded, [{True: -3.0}], [{True: -2.0}], "kto", 0.1)
    assert (line.chosen_before, line.chosen_after) == (-3.0, -2.0)
    assert (line.rejected_before, line.rejected_after, line.margin_before, line.margin) == (None,) * 4
    cells = [cell.strip() for cell in table.as_markdown([line]).splitlines()[-1].strip("|").split("|")]
    assert cells[2:] == ["1", "-3.00", "-2.00", "-", "-", "-", "-", "100%", "-", "-"]


def test_kto_is_told_when_every_answer_of_one_kind_is_too_long(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"What colour is door {n}?", "completion": "Red. " * (1 if n % 2 else 90), "label": n % 2 == 1}
        for n in range(8)
    ]
    with pytest.raises(UserError) as refused:
        align(tmp_path, rows, objective="kto", too_long="drop")
    [found] = refused.value.problems
    assert (found.code, found.params["good"], found.params["bad"]) == ("ALIGN-008", 4, 0)


def test_held_out_rows_that_are_too_long_are_told_in_the_audit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = split(read(tmp_path, *PAIRS), 4, 1234, "align").held_out
    long = held_out[0].line - 1
    rows = [pair | ({"chosen": "Red. " * 90} if at == long else {}) for at, pair in enumerate(PAIRS)]
    align(tmp_path, rows, too_long="drop", validation_rows=4)
    told = json.loads((tmp_path / "run" / "align" / "audit.json").read_text("utf-8"))
    assert (told["dropped"], told["held_out"]["rows"]) == ([], 3)
    assert [place["line"] for place in told["held_out"]["dropped"]] == [long + 1]
    assert "1 held-out rows are left out as too long" in capsys.readouterr().err


def test_the_positions_of_the_base_below_an_adapter_are_checked(tmp_path: Path) -> None:
    tune(tmp_path, max_steps=1)
    write_rows(tmp_path / "pairs.jsonl", PAIRS)
    [found] = check(make_job(tmp_path, "align", ALIGN | {"base": "finetune", "sequence_tokens": 512}))
    assert (found.code, found.params["limit"]) == ("TRAIN-003", 256)


def test_layers_trained_whole_that_leave_none_for_the_adapter_are_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    write_rows(tmp_path / "pairs.jsonl", PAIRS)
    lora = {"targets": ["q_proj"], "save_modules": ["self_attn"]}
    assert [p.code for p in check(make_job(tmp_path, "align", ALIGN | {"lora": lora}))] == ["TARGET-006"]


def test_a_head_that_is_the_embedding_may_be_trained_whole(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    write_rows(tmp_path / "pairs.jsonl", PAIRS)
    assert check(make_job(tmp_path, "align", ALIGN | {"lora": {"save_modules": ["lm_head"]}})) == []
    [found] = check(make_job(tmp_path, "align", ALIGN | {"lora": {"save_modules": ["head"]}}))
    assert found.code == "TARGET-004"


def test_the_advice_for_long_rows_is_one_that_align_takes(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        align(tmp_path, [*PAIRS[:4], PAIR | {"chosen": "Red. " * 90}])
    [found] = refused.value.problems
    assert (found.code, "align.too_long=drop" in found.fix) == ("DATA-004", True)
