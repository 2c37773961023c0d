"""Every option of training changes what the stage makes, in the way it says."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from easyllm.core.artifact import Manifest
from easyllm.core.tuning.config import Quantisation
from easyllm.core.tuning.quantised import load_base, quantisation_record
from tiny_tune import tune, write_base


def tuned(folder: Path, name: str, **changes: Any) -> tuple[Manifest, dict[str, torch.Tensor], list[dict[str, str]]]:
    """The manifest, the adapter and the loss curve of a run of its own."""
    place = folder / name
    place.mkdir()
    manifest = tune(place, **({"max_steps": 6, "warmup_ratio": 0.0} | changes))
    out = place / "run" / "finetune"
    with (out / "losses.csv").open() as file:
        return manifest, load_file(out / "adapter_model.safetensors"), list(csv.DictReader(file))


def size(adapter: dict[str, torch.Tensor], part: str) -> float:
    return sum(float(tensor.square().sum()) for name, tensor in adapter.items() if part in name)


def test_labels_decide_how_many_tokens_are_trained(tmp_path: Path) -> None:
    counts = {name: tuned(tmp_path, name, labels=name)[0].metrics for name in ("last", "assistant", "all")}
    labels = {name: metrics["label_tokens"] for name, metrics in counts.items()}
    assert labels["last"] < labels["assistant"] < labels["all"]
    assert counts["all"]["label_share"] > 0.9


def test_the_schedule_is_the_one_of_the_curve(tmp_path: Path) -> None:
    rates = {}
    for name in ("constant", "linear", "cosine"):
        curve = tuned(tmp_path, name, schedule=name, learning_rate=0.012)[2]
        rates[name] = [float(row["learning_rate"]) for row in curve]
    assert rates["constant"] == [0.012] * 6
    assert rates["linear"] == pytest.approx([0.012 * (7 - step) / 7 for step in range(1, 7)])
    assert rates["cosine"][-1] < rates["linear"][-1] < rates["constant"][-1]


def test_weights_decay_and_a_short_gradient_teaches_nothing(tmp_path: Path) -> None:
    plain = tuned(tmp_path, "plain")[1]
    decayed = tuned(tmp_path, "decayed", weight_decay=5.0)[1]
    assert size(decayed, "lora_A") < 0.9 * size(plain, "lora_A")
    # AdamW is blind to the length of gradients until they are shorter than its epsilon.
    cut = tuned(tmp_path, "cut", max_gradient_norm=1e-12)[1]
    assert size(cut, "lora_B") < 1e-3 * size(plain, "lora_B")


def test_noise_on_the_embeddings_is_there_while_training_and_drawn_by_the_seed(tmp_path: Path) -> None:
    losses = {}
    for name, alpha in (("plain", None), ("noisy", 20.0), ("again", 20.0)):
        losses[name] = [row["loss"] for row in tuned(tmp_path, name, neftune_alpha=alpha)[2]]
    assert losses["noisy"] == losses["again"]
    assert losses["noisy"][0] != losses["plain"][0]


def test_gradient_checkpointing_computes_each_layer_twice_and_learns_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaAttention

    calls: list[bool] = []
    forward = LlamaAttention.forward
    # With a gradient only: the looks at the model before training are none of it.
    monkeypatch.setattr(
        LlamaAttention,
        "forward",
        lambda self, *given, **named: calls.append(self.training) or forward(self, *given, **named),
    )
    found = {}
    for name, asked in (("plain", False), ("checkpointed", True)):
        calls.clear()
        curve = tuned(tmp_path, name, gradient_checkpointing=asked)[2]
        found[name] = (sum(calls), [float(row["loss"]) for row in curve])
    assert found["checkpointed"][0] == 2 * found["plain"][0] > 0
    assert found["checkpointed"][1] == pytest.approx(found["plain"][1], abs=1e-5)


def test_the_weights_of_the_best_measurement_are_published_and_not_the_last(tmp_path: Path) -> None:
    said = {
        "validation_rows": 4, "epochs": 12, "max_steps": 36, "learning_rate": 0.03, "schedule": "constant",
        "validation": {"every_steps": 2, "keep_best": True},
    }  # fmt: skip
    manifest, best, curve = tuned(tmp_path, "best", **said)
    step = next(decision.value for decision in manifest.decisions if decision.what == "weights of step")
    assert step < len(curve) == 36
    upto = tuned(tmp_path, "upto", **said | {"max_steps": step, "validation": {"every_steps": 2}})[1]
    last = tuned(tmp_path, "last", **said | {"validation": {"every_steps": 2}})[1]
    for name, tensor in best.items():
        torch.testing.assert_close(tensor, upto[name], atol=1e-6, rtol=0)
    assert any(not torch.equal(tensor, last[name]) for name, tensor in best.items())


def test_a_quantised_base_is_stored_as_the_recipe_says(tmp_path: Path) -> None:
    write_base(tmp_path / "base")

    def layer(method: Any, **asked: Any) -> Any:
        record = quantisation_record(method, Quantisation(**asked), torch.float32)
        return load_base(tmp_path / "base", torch.float32, record).model.layers[0].self_attn.q_proj

    assert layer("qlora").weight.quant_state.quant_type == "nf4"
    assert layer("qlora", four_bit_type="fp4").weight.quant_state.quant_type == "fp4"
    assert [layer("qlora", double=double).weight.quant_state.nested for double in (True, False)] == [True, False]
    assert layer("int8", int8_threshold=3.5).state.threshold == 3.5
