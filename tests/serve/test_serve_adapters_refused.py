"""Adapters that are not served: each is refused with a code before any request could be answered by it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.artifact import Manifest, write_whole
from easyllm.core.chat import load_tokenizer, seal
from easyllm.core.errors import StageFailed, UserError
from easyllm.serve.adapters import layers as adapter_layers
from easyllm.serve.adapters.settings import AdapterSettings
from easyllm.serve.engines.loading import load
from easyllm.serve.limits import Limits
from easyllm.serve.plan import plan
from tiny_tune import write_base
from trained_adapters import train_adapter


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("refused") / "base")


@pytest.fixture(scope="module")
def good(base: Path) -> Path:
    return train_adapter(base, base.parent / "good")


@pytest.fixture(scope="module")
def shelf(base: Path) -> Iterator[Any]:
    settings = AdapterSettings(most=1, most_rank=8, most_bytes=40_000, base_digest="this", admin=True)
    loaded = load(base, Limits(100, 80, 2), adapters=settings)
    yield loaded.adapters
    loaded.voice.engine.stop()


@pytest.fixture
def changed(good: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the good adapter with other settings in its configuration."""

    def make(**settings: Any) -> Path:
        copy = shutil.copytree(good, tmp_path / "changed")
        file = copy / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | settings), "utf-8")
        return copy

    return make


def code_of(shelf: Any, path: Path) -> str:
    with pytest.raises(UserError) as refused:
        shelf.load("mine", path)
    assert shelf.cards() == []
    return str(refused.value.problems[0].code)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"use_dora": True}, "SERVE-051"),
        ({"modules_to_save": ["lm_head"]}, "SERVE-051"),
        ({"bias": "all"}, "SERVE-051"),
        ({"init_lora_weights": "pissa"}, "SERVE-051"),  # changes the base as it is loaded
        ({"peft_type": "IA3"}, "SERVE-051"),
        ({"something_new": {"a": 1}}, "SERVE-051"),
        ({"r": 0}, "SERVE-050"),
        ({"r": float("inf")}, "SERVE-050"),
        ({"lora_alpha": float("nan")}, "SERVE-050"),
        ({"rank_pattern": {"q_proj": "x"}}, "SERVE-050"),
        ({"alpha_pattern": {"(": 2}}, "SERVE-050"),
        ({"alpha_pattern": {"q_proj": "x"}}, "SERVE-050"),
        ({"alpha_pattern": ["q_proj"]}, "SERVE-050"),
        ({"rank_pattern": {"q_proj": 0}}, "SERVE-050"),
        ({"r": 3}, "SERVE-053"),  # not the rank of its matrices
        ({"target_modules": ["q_proj", "v_proj", "down_proj", "gate"]}, "SERVE-053"),
    ],
)
def test_more_or_less_than_lora_is_refused(
    shelf: Any, changed: Callable[..., Path], settings: dict[str, Any], code: str
) -> None:
    assert code_of(shelf, changed(**settings)) == code


def test_broken_and_cut_files_are_refused(shelf: Any, changed: Callable[..., Path]) -> None:
    copy = changed()
    weights = copy / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for broken in (whole[:-10], whole[:4], b"\xff" * 100, b""):
        weights.write_bytes(broken)
        assert code_of(shelf, copy) == "SERVE-050"
    (copy / "adapter_config.json").write_text("[]")
    weights.write_bytes(whole)
    assert code_of(shelf, copy) == "SERVE-050"


def test_numbers_that_are_not_finite_are_refused(shelf: Any, changed: Callable[..., Path]) -> None:
    from safetensors.torch import load_file, save_file

    copy = changed()
    tensors = load_file(copy / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, copy / "adapter_model.safetensors")
    assert code_of(shelf, copy) == "SERVE-050"


def test_an_adapter_that_overflows_is_refused_before_it_shares_a_pass_with_others(
    shelf: Any, changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(shelf._engine, "generate", lambda *told: asked.append(told))
    with pytest.raises(UserError, match=r"SERVE-050.*infinite or no numbers"):
        shelf.load("mine", changed(lora_alpha=1e300))
    assert asked == []
    assert shelf.cards() == []


def test_an_adapter_that_changes_nothing_is_refused(shelf: Any, base: Path, tmp_path: Path) -> None:
    assert code_of(shelf, train_adapter(base, tmp_path / "fresh", steps=0)) == "SERVE-054"


def test_an_adapter_of_another_shape_is_refused(shelf: Any, tmp_path: Path) -> None:
    other = write_base(tmp_path / "gpt2", "gpt2")
    assert code_of(shelf, train_adapter(other, tmp_path / "other", "gpt2")) == "SERVE-053"


@pytest.mark.parametrize(
    ("records", "code"),
    [
        ({"base": {"ref": "another", "path": None, "digest": "that"}}, "SERVE-052"),
        ({"base": {"ref": "mine", "path": None, "digest": "this"}, "quantisation": {"bits": 4}}, "SERVE-051"),
        ({"base": {"ref": "mine", "path": None, "digest": "this"}, "template": {"hash": "0" * 64}}, "SERVE-058"),
    ],
)
def test_what_the_manifest_says_is_held_against_the_base(
    shelf: Any, changed: Callable[..., Path], records: dict[str, Any], code: str
) -> None:
    copy = changed()
    manifest = Manifest("adapter", "finetune", "demo", "", "", {}, {}, [], {}, 1, records=records)
    write_whole(copy / "manifest.json", manifest.as_json())
    assert code_of(shelf, copy) == code


def test_rank_number_and_memory_have_limits(shelf: Any, base: Path, good: Path, tmp_path: Path) -> None:
    assert code_of(shelf, train_adapter(base, tmp_path / "wide", r=9)) == "SERVE-056"
    big = train_adapter(base, tmp_path / "big", r=8, target_modules="all-linear")
    assert code_of(shelf, big) == "SERVE-056"
    shelf.load("good", good)
    with pytest.raises(UserError, match=r"SERVE-056.*number of adapters is 2"):
        shelf.load("another", good)
    with pytest.raises(UserError, match="SERVE-055"):
        shelf.load("good", good)
    shelf.unload("good")


def test_an_adapter_of_the_same_seal_and_base_is_served(shelf: Any, base: Path, changed: Callable[..., Path]) -> None:
    copy = changed()
    records = {"base": {"ref": "mine", "path": None, "digest": "this"}, "template": seal(load_tokenizer(base))}
    manifest = Manifest("adapter", "finetune", "demo", "", "d", {}, {}, [], {}, 1, records=records)
    write_whole(copy / "manifest.json", manifest.as_json())
    assert shelf.load("mine", copy).digest == "d"
    shelf.unload("mine")


def test_tokens_given_to_the_wrong_adapter_are_noticed_when_it_is_loaded(
    shelf: Any, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof at loading mixes base and adapter in one batch: rows that are one place off cannot pass it."""
    right = adapter_layers.AdapterLayers._rows

    def one_off(self: Any, tokens: int, device: Any) -> Any:
        return {
            number: rows if rows is None else (rows + 1) % tokens
            for number, rows in right(self, tokens, device).items()
        }

    monkeypatch.setattr(adapter_layers.AdapterLayers, "_rows", one_off)
    with pytest.raises(StageFailed, match="SERVE-059"):
        shelf.load("mine", good)
    assert shelf.cards() == []


def test_the_plan_tells_what_adapters_take(base: Path, good: Path, serve_job: Any) -> None:
    made = plan(serve_job(base, adapters={"house": str(good)}))
    assert made.figures["adapters"] == "house"
    assert 0 < made.figures["adapters in memory (MB)"] < 0.1
    assert f"--adapter=house={good}" in made.commands[0]
    assert "--base-digest" in made.commands[0]
