"""The estimates against their sources, the papers' own closed forms, and against what real ranks hold."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from easyllm.core.megatron.architecture import Architecture
from easyllm.core.megatron.layout import Layout
from easyllm.pretrain.estimate import (
    Training,
    flops_per_token,
    layer_activation_bytes,
    memory,
    rank_parameters,
)
from easyllm.pretrain.fitting import RESERVED, layouts_that_fit

GPT = Architecture(
    family="gpt2", layers=24, hidden=1024, heads=16, kv_heads=16, head_dim=64, ffn_hidden=4096, norm="LayerNorm",
    norm_epsilon=1e-5, positions="learned_absolute", rope_theta=None, max_positions=1024, tie_embeddings=True,
    biases=True, gated=False, activation="gelu_tanh", init_std=0.02, dropout=0.1, tokenizer_size=50257,
    padded_vocabulary=50304, tensor_parallel=1, dtype="bfloat16",
)  # fmt: skip
LLAMA = replace(
    GPT, family="llama", layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn_hidden=14336, norm="RMSNorm",
    positions="rope", rope_theta=5e5, tie_embeddings=False, biases=False, gated=True, activation="silu", dropout=0.0,
    tokenizer_size=128256, padded_vocabulary=128256,
)  # fmt: skip
FP32 = replace(LLAMA, dtype="float32")


def training(
    data: int = 1, samples: int = 1, tokens: int = 2048, way: dict[str, Any] | None = None, **layout: Any
) -> Training:
    return Training(Layout(**layout), data, 8, samples, tokens, **(way or {}))


@pytest.mark.parametrize("a", [GPT, LLAMA])
def test_one_rank_holds_all_parameters(a: Architecture) -> None:
    assert rank_parameters(a, Layout()) == a.parameters()


def test_ranks_of_a_layout_hold_the_model_between_them() -> None:
    tensor = [rank_parameters(LLAMA, Layout(tensor=size)) for size in (1, 2, 4, 8)]
    assert all(small > large // 2 for large, small in pairwise(tensor)), "norms are on each rank"
    assert rank_parameters(LLAMA, Layout(pipeline=4)) > LLAMA.parameters() // 4, "an end stage has the vocabulary too"


@pytest.mark.parametrize("tensor", [1, 2, 8])
def test_activations_of_a_fused_gpt_layer_are_the_papers(tensor: int) -> None:
    """Korthikanti et al. 2022 without the scores: sbh(10 + 24/t), and all of it over t with sequence parallelism."""
    s, b, h = 1024, 4, GPT.hidden
    fused = {"fused": True}
    assert layer_activation_bytes(GPT, training(1, b, s, fused, tensor=tensor)) == s * b * h * (10 + 24 / tensor)
    halves = training(1, b, s, fused, tensor=tensor, sequence=True)
    assert layer_activation_bytes(GPT, halves) == s * b * h * 34 / tensor


def test_recomputation_keeps_less() -> None:
    kept = [memory(GPT, training(1, 4, 1024, {"recompute": way})).activations for way in ("none", "selective", "full")]
    assert kept[0] > kept[1] > kept[2]


def test_interleaved_stages_hold_more_micro_batches() -> None:
    """Korthikanti et al. 2022, section 4.2.3: L layers' worth on the first stage, times 1 + (p - 1)/(pm)."""
    fused = {"fused": True}
    plain = memory(LLAMA, training(way=fused, pipeline=4)).activations
    interleaved = memory(LLAMA, training(way=fused, pipeline=4, virtual_pipeline=2)).activations
    assert interleaved == pytest.approx(plain * (1 + 3 / (4 * 2)), rel=1e-9)


def test_work_of_a_gpt_is_the_papers() -> None:
    """Narayanan et al. 2021: 72 B s l h^2 (1 + s/6h + V/12lh), per token and without recomputation."""
    s, h, layers, vocabulary = 1024, GPT.hidden, GPT.layers, GPT.padded_vocabulary
    paper = 72 * layers * h * h * (1 + s / (6 * h) + vocabulary / (12 * layers * h))
    assert flops_per_token(GPT, s) == pytest.approx(paper, rel=1e-12)


DISTRIBUTED = {"distributed_optimizer": True}


@pytest.mark.parametrize(
    ("a", "spread", "bytes_a_weight"),
    [
        (LLAMA, training(), 18),
        (LLAMA, training(8, way=DISTRIBUTED), 6 + 12 / 8),
        (LLAMA, training(4, way=DISTRIBUTED, context=2), 6 + 12 / 8),
        (FP32, training(), 16),
        (FP32, training(8, way=DISTRIBUTED), 8 + 8 / 8),
        # ZeRO's own table has gradients in 16 bit; here they are added up in fp32, under either engine.
        (LLAMA, training(8, way={"zero": 1}), 6 + 12 / 8),
        (LLAMA, training(8, way={"zero": 2}), 2 + 16 / 8),
        (LLAMA, training(8, way={"zero": 3}), 18 / 8),
        (LLAMA, training(8, way={"zero": 2, "offload_optimizer": True}), 2 + 4 / 8),
    ],
)
def test_bytes_a_weight_are_megatrons_and_zeros_tables(
    a: Architecture, spread: Training, bytes_a_weight: float
) -> None:
    cost = memory(a, spread)
    states = cost.weights + cost.gradients + cost.optimizer
    assert states / rank_parameters(a, spread.layout) == pytest.approx(bytes_a_weight, rel=1e-6)


@pytest.mark.parametrize("zero", [None, 0])
def test_table_of_layouts_names_only_what_fits_and_divides(zero: int | None) -> None:
    like = training(1, 1, 4096, way={"zero": zero})
    found = layouts_that_fit(LLAMA, like, 8, 80 * 10**9, 64)
    assert found
    for fit in found:
        layout = fit.training.layout
        assert fit.training.ranks == 8
        assert fit.cost.total <= 80 * 10**9 * (1 - RESERVED)
        assert LLAMA.layers % layout.pipeline == 0
        assert LLAMA.kv_heads % layout.tensor == 0
        assert layout.pipeline == 1 or zero is None, "DeepSpeed has no pipeline here"
    assert found[0].training.recompute == "none", "what needs no recomputation comes first"
    assert layouts_that_fit(LLAMA, like, 8, 10**9, 64) == []
