"""Layers written out by hand train exactly as the model's own, and leave it as it was."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from easyllm.core.batches import answer_loss, pad
from easyllm.core.conversations import Conversation
from easyllm.core.examples import Example
from easyllm.core.tuning.lean import lean
from tiny_families import make_model

FAMILIES = {"llama": 21, "qwen3": 25, "mistral": 21, "qwen2": 21, "gemma": 14, "gpt_neox": 8, "bloom": 8, "gpt2": 0}
"""Layers replaced: adapters on plain linear layers, RMS norms whose weight is not off by one, silu-gated layers."""


def adapted(case: str, folder: Path, **more: Any) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(2)
    base = AutoModelForCausalLM.from_pretrained(str(make_model(case, folder / "base")))
    how = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    return get_peft_model(base, LoraConfig(**how | more)).eval()


def loss_and_gradients(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(4)
    ids = [torch.randint(1, 300, (length,), generator=draw).tolist() for length in (9, 17)]
    examples = [Example(row, list(row), Conversation((), Path("rows.jsonl"), 1)) for row in ids]
    model.zero_grad()
    loss = answer_loss(model, pad(examples, 0))
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(one: tuple[float, dict[str, torch.Tensor]], other: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        assert (gradient - other[1][name]).abs().max() <= 1e-4 * other[1][name].abs().max().clamp_min(1e-3), name


@pytest.mark.parametrize("case", FAMILIES)
def test_loss_and_gradients_are_those_of_the_model_itself(case: str, tmp_path: Path) -> None:
    model = adapted(case, tmp_path)
    wanted = loss_and_gradients(model)
    with lean(model) as replaced:
        assert replaced == FAMILIES[case]
        same(loss_and_gradients(model), wanted)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("more", [{"lora_dropout": 0.1}, {"use_dora": True}, {"target_modules": ["q_proj"]}])
def test_adapters_out_of_the_ordinary_go_their_own_way(more: dict[str, Any], tmp_path: Path) -> None:
    model = adapted("llama", tmp_path, **more)
    wanted = loss_and_gradients(model)
    with lean(model) as replaced:
        assert replaced == (9 if "target_modules" in more else 7)
        same(loss_and_gradients(model), wanted)


def test_a_switched_off_adapter_and_mixed_precision_go_their_own_way(tmp_path: Path) -> None:
    model = adapted("llama", tmp_path)
    ids = torch.tensor([[5, 6, 7, 8]])

    def outcomes() -> list[torch.Tensor]:
        with torch.no_grad():
            with model.disable_adapter():
                off = model(input_ids=ids).logits
            with torch.autocast("cpu", dtype=torch.bfloat16):
                half = model(input_ids=ids).logits
        return [off, half]

    wanted = outcomes()
    with lean(model):
        for one, other in zip(outcomes(), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_with_every_weight_trained_norms_go_their_own_way(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(make_model("llama", tmp_path / "base"))).eval()
    wanted = loss_and_gradients(model)
    with lean(model) as replaced:
        assert replaced == 2
        same(loss_and_gradients(model), wanted)
