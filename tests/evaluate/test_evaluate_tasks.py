"""Tasks: lm-eval scores a user's own files and the tasks it knows, offline, the same each time and wherever it is."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from easyllm.core.chat import load_tokenizer
from easyllm.core.errors import UserError
from easyllm.core.models import load_model
from easyllm.evaluate.taskfiles import matches
from tiny_tune import check, make_job, publish, tune, write_base, write_rows

CHOICES: list[dict[str, Any]] = [
    {"question": "What colour is the door?", "choices": ["The door is red.", "Number 4 is 16."], "answer": 0},
    {"question": "What is number 3?", "choices": ["The door is red.", "Number 3 is 9."], "answer": "Number 3 is 9."},
    {"question": "门是什么颜色？", "choices": ["5", "门是红色的。"], "answer": 1},
]
GENERATED: list[dict[str, Any]] = [
    {"prompt": "What colour is the door?", "answer": "the door is RED."},
    {"prompt": "What is number 3?", "answer": ["no", "3 is"], "match": "contains"},
    {"prompt": "What is number 4?", "answer": "^Number \\d", "match": "regex"},
]
YAML = """task: colours
custom_dataset: !function rows.rows
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}]
"""
ROWS_PY = """from datasets import Dataset

def rows(**_):
    return {"test": Dataset.from_list([{"question": "What colour?", "choices": ["red", "blue"], "answer": 0}] * 3)}
"""


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    tune(folder, epochs=60, lora={"rank": 16, "alpha": 32})
    publish(make_job(folder, "merge", {}))
    write_rows(folder / "choices.jsonl", CHOICES)
    write_rows(folder / "said.jsonl", GENERATED)
    return folder


def evaluate(folder: Path, **config: Any) -> tuple[dict[str, Any], Path]:
    return publish(make_job(folder, "evaluate", config)).metrics, folder / "run" / "evaluate"


def test_own_files_are_scored_for_base_adapter_and_merged_in_one_table(tuned: Path) -> None:
    config = {"task_files": ["choices.jsonl", "said.jsonl"], "prompts": ["What is number 3?"]}
    found, out = evaluate(tuned, **config)
    assert found["tuned_choices_acc"] == found["adapter_choices_acc"] == 1
    assert found["tuned_said_acc"] == found["adapter_said_acc"] == 1
    assert found["base_said_acc"] == 0
    assert found["same_tokens_adapter_merged"] == 1
    report = (out / "report.md").read_text("utf-8")
    (line,) = [line for line in report.splitlines() if "choices acc " in line]
    assert line.count("±") == 3
    scores = json.loads((out / "scores.json").read_text("utf-8"))
    assert set(scores["tasks"]) == {"base", "adapter", "tuned"}
    again, _ = evaluate(tuned, **config, batch_samples=1)
    assert again == pytest.approx(found)


@pytest.mark.parametrize("chat", [True, False])
def test_scores_are_what_lm_evals_own_model_class_gives(tuned: Path, chat: bool) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    from easyllm.evaluate.harness import Tasks
    from easyllm.evaluate.taskfiles import task_files

    job = make_job(tuned, "evaluate", {"task_files": ["choices.jsonl", "said.jsonl"], "chat": chat, "shots": 1})
    tasks = Tasks(job, task_files(job))
    merged = tuned / "run" / "merge"
    model, tokenizer = load_model(merged, torch.float32), load_tokenizer(merged)
    stock = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2), tasks=list(tasks._loaded), num_fewshot=1,
        apply_chat_template=chat, bootstrap_iters=0, log_samples=True,
    )["results"]  # fmt: skip
    found, _ = evaluate(tuned, task_files=["choices.jsonl", "said.jsonl"], chat=chat, shots=1)
    for task, metric in (("choices", "acc"), ("choices", "acc_norm"), ("said", "acc")):
        assert found[f"tuned_{task}_{metric}"] == pytest.approx(stock[task][f"{metric},none"])


def test_a_task_of_a_users_folder_is_scored_by_name(tuned: Path) -> None:
    folder = tuned / "own"
    folder.mkdir()
    (folder / "colours.yaml").write_text(YAML)
    (folder / "rows.py").write_text(ROWS_PY)
    found, _ = evaluate(tuned, model="base", tasks=["colours"], task_folder="own", limit_rows=2)
    assert found["tuned_colours_acc"] in (0, 1)


def test_a_task_whose_data_is_not_here_is_refused_without_a_network(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    folder = tmp_path / "own"
    folder.mkdir()
    text = YAML.replace("custom_dataset: !function rows.rows", "dataset_path: nobody/nothing")
    (folder / "colours.yaml").write_text(text)
    with pytest.raises(UserError, match="EVAL-014"):
        evaluate(tuned, model="base", tasks=["colours"], task_folder=str(folder))


@pytest.mark.slow
def test_a_shipped_task_is_scored_by_its_name_from_a_local_copy_of_its_data(tuned: Path, tmp_path: Path) -> None:
    """lm-eval's own arc_easy, on a folder as ``hf download --repo-type dataset allenai/ai2_arc`` leaves it."""
    copy = tmp_path / "data" / "allenai" / "ai2_arc"
    (copy / "ARC-Easy").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        squares = [f"Number {n} is {n * n}." for n in range(9)]
        rows = [
            {
                "id": f"{split}{n}", "question": f"What is number {n}?", "answerKey": "A",
                "choices": {"text": squares[n : n + 2], "label": ["A", "B"]},
            }
            for n in range(8)
        ]  # fmt: skip
        write_rows(copy / "ARC-Easy" / f"{split}.jsonl", rows)
    files = [{"split": split, "path": f"ARC-Easy/{split}.jsonl"} for split in ("train", "validation", "test")]
    head = yaml.safe_dump({"configs": [{"config_name": "ARC-Easy", "data_files": files}]})
    (copy / "README.md").write_text(f"---\n{head}---\n")
    same = [
        {"question": f"Question: {row['question']}\nAnswer:", "choices": row["choices"]["text"], "answer": 0}
        for row in rows
    ]  # fmt: skip
    write_rows(tmp_path / "same.jsonl", same)
    asked = {"tasks": ["arc_easy"], "task_data": str(tmp_path / "data"), "task_files": [str(tmp_path / "same.jsonl")]}
    found, _ = evaluate(tuned, **asked)
    for side in ("base", "adapter", "tuned"):
        assert found[f"{side}_arc_easy_acc"] == found[f"{side}_same_acc"] < 1
    assert found["tuned_arc_easy_acc"] == found["adapter_arc_easy_acc"] > found["base_arc_easy_acc"]


@pytest.mark.slow
def test_a_name_that_lm_eval_does_not_know_is_refused(tuned: Path) -> None:
    with pytest.raises(UserError, match="EVAL-013"):
        evaluate(tuned, model="base", tasks=["no_such_task"])


@pytest.mark.parametrize(
    "row",
    [
        {"question": "?", "choices": ["a"], "answer": 0},
        {"question": "?", "choices": ["a", "b"], "answer": 2},
        {"question": "?", "choices": ["a", "b"], "answer": "c"},
        {"question": "?", "choices": ["a", "a"], "answer": 0},
        {"question": "?", "choices": ["a", "b"], "answer": True},
        {"prompt": "?"},
        {"prompt": "?", "answer": "(", "match": "regex"},
        {"prompt": "?", "answer": "a", "match": "nearly"},
        {"prompt": "?", "answer": "a", "mach": "exact"},
    ],
)
def test_a_bad_task_row_is_named_by_line(tmp_path: Path, row: dict[str, Any]) -> None:
    write_base(tmp_path / "base")
    write_rows(tmp_path / "own.jsonl", [(CHOICES if "choices" in row else GENERATED)[0], row])
    (found,) = check(make_job(tmp_path, "evaluate", {"model": "base", "task_files": ["own.jsonl"]}))
    assert (found.code, found.line) == ("EVAL-010", 2)


def test_two_kinds_of_rows_in_one_file_are_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    write_rows(tmp_path / "own.jsonl", [CHOICES[0], GENERATED[0]])
    (found,) = check(make_job(tmp_path, "evaluate", {"model": "base", "task_files": ["own.jsonl"]}))
    assert (found.code, found.line) == ("EVAL-011", 2)


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    write_rows(tmp_path / "own.jsonl", CHOICES)
    config = {"model": "base", "task_files": ["own.jsonl"], "tasks": ["own"]}
    assert [p.code for p in check(make_job(tmp_path, "evaluate", config))] == ["EVAL-012"]


def test_keys_of_tasks_without_a_task_are_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    job = make_job(tmp_path, "evaluate", {"model": "base", "prompts": ["?"], "chat": False, "shots": 2})
    assert [(p.code, p.key) for p in check(job)] == [("EVAL-018", "evaluate.chat"), ("EVAL-018", "evaluate.shots")]
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "own.jsonl", CHOICES)
    of_names = {"task_files": ["own.jsonl"], "task_data": "data", "shots": 2}  # own rows are read from their own file
    job = make_job(tmp_path, "evaluate", {"model": "base"} | of_names)
    assert [(p.code, p.key) for p in check(job)] == [("EVAL-018", "evaluate.task_data")]


def test_an_endpoints_key_that_is_not_set_is_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    assert "NO_SUCH_KEY" not in os.environ
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "key_variable": "NO_SUCH_KEY"}
    job = make_job(tmp_path, "evaluate", {"model": "base", "prompts": ["?"], "endpoint": endpoint})
    assert [p.code for p in check(job)] == ["EVAL-019"]


def test_without_lm_eval_tasks_are_refused(tuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "easyllm.evaluate.harness", None)
    with pytest.raises(UserError, match="EVAL-015"):
        evaluate(tuned, model="base", task_files=["choices.jsonl"])


def test_answers_match_as_the_row_says() -> None:
    row = {"answers": ["Red"], "match": "exact"}
    assert matches(" red ", row)
    assert not matches("red.", row)
    assert matches("so RED.", row | {"match": "contains"})
    assert not matches("red", row | {"match": "regex"})


def test_more_solved_examples_than_rows_are_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    write_rows(tmp_path / "choices.jsonl", CHOICES)
    asked = {"model": "base", "task_files": ["choices.jsonl"]}
    job = make_job(tmp_path, "evaluate", asked | {"shots": len(CHOICES)})
    assert [(p.code, p.key) for p in check(job)] == [("EVAL-020", "evaluate.shots")]
    assert check(make_job(tmp_path, "evaluate", asked | {"shots": len(CHOICES) - 1})) == []


def test_a_task_given_twice_is_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    with pytest.raises(ValueError, match="colours is given twice"):
        make_job(tmp_path, "evaluate", {"model": "base", "tasks": ["colours", "colours"]})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ('doc_to_text: "{{question"', r"colours is written wrongly: TemplateSyntaxError"),
        ('doc_to_text: "{{no.such.key}}"', r"colours is written wrongly: UndefinedError: 'no' is undefined"),
        ("metric_list: [{metric: nonsense}]", r"colours is written wrongly: KeyError"),
        ("tag: [open", r"colours is written wrongly: expected .*colours.yaml:\d+\)"),
    ],
)
def test_a_task_that_is_written_wrongly_is_named_before_a_model_is_loaded(
    tuned: Path, tmp_path: Path, wrong: str, told: str
) -> None:
    key = wrong.partition(":")[0]
    lines = [line for line in YAML.splitlines() if not line.startswith(key)]
    (tmp_path / "colours.yaml").write_text("\n".join([*lines, wrong]) + "\n")
    (tmp_path / "rows.py").write_text(ROWS_PY)
    with pytest.raises(UserError, match=f"EVAL-023.*{told}"):
        evaluate(tuned, model="base", tasks=["colours"], task_folder=str(tmp_path))


def test_a_task_longer_than_the_model_loses_its_beginning_and_says_so(
    tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = [{**row, "question": "What colour? " * 300 + str(row["question"])} for row in CHOICES]
    asked = [{**row, "prompt": "What is number 4? " * 300 + str(row["prompt"])} for row in GENERATED]
    write_rows(tuned / "long.jsonl", long)
    write_rows(tuned / "asked.jsonl", asked)
    found, _ = evaluate(tuned, model="base", task_files=["long.jsonl", "asked.jsonl"], max_new_tokens=8)
    assert {"tuned_long_acc", "tuned_asked_acc"} <= set(found)
    assert "9 requests of tasks were longer than the 256 tokens" in capsys.readouterr().err


def test_an_answer_longer_than_the_model_leaves_the_prompt_its_half() -> None:
    from types import SimpleNamespace

    from easyllm.evaluate.config import EvaluateConfig
    from easyllm.evaluate.harness import Model

    asked: list[tuple[list[list[int]], int]] = []

    def say(prompts: list[list[int]], longest: int, bar: Any) -> list[list[int]]:
        asked.append((prompts, longest))
        return [[1] for _ in prompts]

    words = SimpleNamespace(encode=lambda text, **_: list(range(len(text))), decode=lambda ids, **_: "")
    model = Model(SimpleNamespace(say=say), words, EvaluateConfig(), None, positions=101)  # type: ignore[arg-type]
    requests = [
        SimpleNamespace(args=("a" * size, {"max_gen_toks": most})) for size, most in [(20, 256), (90, 256), (90, 8)]
    ]
    model.generate_until(requests)
    assert [([len(ids) for ids in prompts], longest) for prompts, longest in asked] == [
        ([90], 8),
        ([50], 50),
        ([20], 80),
    ]
    assert model.cut == 1
