"""Whoever chooses Chinese reads Chinese: plans with their figures and reasons, progress, tables."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tiny_tune
from easyllm.convert.config import ConvertConfig
from easyllm.convert.plan import plan as plan_convert
from easyllm.core import models, report
from easyllm.core.artifact import Manifest
from easyllm.core.chat import ensure_template
from easyllm.core.freshness import State
from easyllm.core.inputs import Input
from easyllm.core.megatron import model, session
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.messages import catalogue
from easyllm.core.progress import progress
from easyllm.core.stage import Job, Plan
from easyllm.corpus.vocabulary import token_dtype
from easyllm.env import doctor
from easyllm.evaluate.measure import Loss
from easyllm.evaluate.plan import plan as plan_evaluate
from easyllm.evaluate.questions import Question
from easyllm.evaluate.report import Scores, markdown, show
from easyllm.finetune.plan import plan as plan_finetune
from easyllm.finetune.split import Split
from easyllm.merge.plan import plan as plan_merge
from easyllm.pipeline import STAGES
from easyllm.serve.config import ServeConfig
from easyllm.serve.limits import choose_limits

LLAMA = Architecture(
    family="llama", layers=3, hidden=64, heads=8, kv_heads=2, head_dim=8, ffn_hidden=96, norm="RMSNorm",
    norm_epsilon=1e-5, positions="rope", rope_theta=500000.0, max_positions=32, tie_embeddings=False,
    biases=False, gated=True, activation="silu", init_std=0.2, dropout=0.0, tokenizer_size=300,
    padded_vocabulary=384, tensor_parallel=1,
)  # fmt: skip
PACKAGE = Path(__file__).parent.parent.parent / "easyllm"
RECIPES = sorted(path.stem for path in (PACKAGE / "recipes").glob("*.yaml"))
TERMS: dict[str, str] = catalogue("zh")["terms"]
CHINESE = re.compile(r"[\u4e00-\u9fff]")
PROSE = re.compile(r"[A-Za-z]{2,} [A-Za-z]{2,}")
"""Two English words side by side, as no path, number or name of a layer has them."""
NO_NAMES = {"tokenizer_size", "eod_id"}
"""Keys of dictionaries in plan.py that are records, not figures."""


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASYLLM_LANG", "zh")


def english_left(plan_text: str) -> list[str]:
    """The lines of a printed plan whose name, reason or value in words has no Chinese."""
    wrong = []
    for line in plan_text.splitlines():
        if line.startswith("  $ "):
            continue
        head, _, tail = line.partition("：")
        what, _, value = head.partition(" = ")
        if not line.startswith("  "):  # a stage's name is a command: `easyllm corpus`
            must = [tail]
        elif value:
            must = [what, tail]
        else:
            must, value = [what], tail
        if not all(CHINESE.search(part) for part in must) or (PROSE.search(value) and not CHINESE.search(value)):
            wrong.append(line)
    return wrong


def printed(plan: Plan) -> str:
    return report.plan_text([("stage", State(False, "not_made", {}), plan)])


@pytest.mark.parametrize("name", RECIPES)
def test_the_plan_of_every_shipped_recipe_is_chinese(name: str, easyllm) -> None:
    text = easyllm("--lang", "zh", "plan", name).stdout
    assert len(text.splitlines()) > 6
    assert english_left(text) == []


def test_the_plan_stays_chinese_once_the_corpus_is_there(easyllm, tiny: Path) -> None:
    easyllm("corpus", tiny)
    text = easyllm("--lang", "zh", "plan", tiny).stdout
    assert text.startswith("corpus：已是最新，将跳过\n")
    assert english_left(text) == []
    assert "语料生成后可知" not in text


def test_the_plan_for_programs_keeps_its_english_names(easyllm, tiny: Path) -> None:
    def names(language: str) -> list[Any]:
        stages = json.loads(easyllm("--lang", language, "plan", tiny, "--json").stdout)["stages"]
        return [(list(row["figures"]), [entry["what"] for entry in row["decisions"]]) for row in stages]

    assert names("zh") == names("en")


def test_plans_on_a_finished_adapter_are_chinese(tmp_path: Path, chinese: None) -> None:
    tiny_tune.tune(tmp_path, validation_rows=2)
    finetune = tiny_tune.make_job(tmp_path, "finetune", tiny_tune.FINETUNE)
    merge = tiny_tune.make_job(tmp_path, "merge", {"adapter": "run/finetune"})
    evaluate = tiny_tune.make_job(tmp_path, "evaluate", {"model": "run/finetune"})
    plans = [plan_finetune(finetune), plan_merge(merge), plan_evaluate(evaluate)]
    assert [line for plan in plans for line in english_left(printed(plan))] == []


def test_the_plan_of_a_conversion_is_chinese_once_the_checkpoint_is_there(tmp_path: Path, chinese: None) -> None:
    records = {"architecture": LLAMA.as_record()}
    made = Manifest("checkpoint", "pretrain", "tiny", "", "", {}, {}, [], {}, 1, records=records)
    source = Input("checkpoint", "pretrain", "artifact", tmp_path, manifest=made, digest="0")
    job = Job("convert", ConvertConfig(), {"checkpoint": source}, 1, "tiny", tmp_path, tmp_path, tmp_path)
    text = printed(plan_convert(job))
    assert "补齐的 384 -> 300" in text
    assert english_left(text) == []


def reasons(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every reason that a machine or a setting can bring about, outside the plans above."""
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    yield models.choose_dtype(cpu)[1]
    for native in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda native=native, **_: native)
        yield models.choose_dtype(cuda)[1]
    yield session.choose_device("cpu")[2]
    for needed in (True, False):
        monkeypatch.setattr(session.cpu, "needed", lambda needed=needed: needed)
        yield session.choose_device("auto")[2]
    rope, alibi = (SimpleNamespace(positions=p, parallel_residual=False, family="bloom") for p in ("rope", "alibi"))
    yield model.choose_layers(cpu, rope)[1]
    yield model.choose_layers(cuda, alibi)[1]
    for found in (object(), None):
        monkeypatch.setattr(model.importlib.util, "find_spec", lambda name, found=found: found)
        yield model.choose_layers(cuda, rope)[1]
    monkeypatch.undo()
    monkeypatch.setenv("EASYLLM_LANG", "zh")
    yield from (token_dtype(size)[1] for size in (300, 70_000))
    for asked, positions in ((8, 16), (None, 16), (None, 9000), (None, None)):
        yield choose_limits(ServeConfig(max_total_tokens=asked), positions)[1].why
    decision = ensure_template(tiny_tune.tiny_tokenizer(template=None))
    assert decision
    yield decision.why
    yield Split([], [], 0).decision.why


def test_reasons_are_chinese_whatever_the_machine(chinese: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [why for why in reasons(monkeypatch) if not CHINESE.search(why)] == []


def test_bars_tables_and_the_doctor_speak_chinese(chinese: None, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("finetune", 2, "steps") as bar:
        bar.advance(2, loss=0.5, epoch=1)
    assert re.match(r"finetune：2/2 训练步 · .* s · 损失 0.5 轮次 1\n", capsys.readouterr().err)
    loss = Loss(rows=2, label_tokens=9, loss=1.5)
    asked = [Question("How many?", ("12",))]
    losses, said = {"base": loss, "tuned": loss}, {"base": ["1"], "tuned": ["12"]}
    scores = Scores({"base": "b", "tuned": "t"}, asked, losses, said)
    show(scores)
    table = capsys.readouterr().err
    for name in ("基座模型 (b)", "微调后 (t)", "困惑度", "符合期望的回答", "提示", "期望"):
        assert name in table
    assert not CHINESE.search(markdown(scores))
    assert "处理器核心" in doctor.text(doctor.examine())


def calls(*names: str) -> Iterator[tuple[str, ast.Call]]:
    """(place, call) of every call of a function or method so named."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in names:
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node


def words(node: ast.AST) -> list[str]:
    """The texts written out in an expression; what ``say`` is given and keys are none."""
    if isinstance(node, ast.Subscript) or (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "say"):
        return []
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    return [word for child in ast.iter_child_nodes(node) for word in words(child)]


def test_every_decision_has_a_known_name_and_a_reason_from_the_catalogue() -> None:
    made = [(place, call.args) for place, call in calls("Decision") if call.args]
    found = [(place, args) for place, args in made if not place.startswith("instruct/review/")]  # there: a reviewer's
    assert len(found) > 20
    for place, (what, value, why) in found:
        assert isinstance(what, ast.Constant), place
        assert what.value in TERMS, place
        assert words(why) == [], place
        assert not any(PROSE.search(word) for word in words(value)), place


def test_every_figure_of_a_plan_has_a_chinese_name() -> None:
    for path in PACKAGE.glob("*/plan.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            keys = node.keys if isinstance(node, ast.Dict) else []
            names = {key.value for key in keys if isinstance(key, ast.Constant)}
            assert names - NO_NAMES <= set(TERMS), path


def test_every_bar_has_chinese_labels_units_and_figures() -> None:
    for place, call in calls("progress", "FileProgress"):
        assert set(words(call)) <= {*TERMS, *STAGES, "kB"}, place
    for place, call in calls("advance", "reached"):
        names = {k.arg for k in call.keywords if k.arg}
        names |= {w for k in call.keywords if not k.arg and isinstance(k.value, ast.Dict) for w in words(k.value)}
        assert names <= set(TERMS), place


def test_terms_are_chinese_and_each_is_used() -> None:
    sources = "\n".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    for english, name in TERMS.items():
        assert CHINESE.search(name), english
        assert english.removesuffix(" (estimate)") in sources, english
