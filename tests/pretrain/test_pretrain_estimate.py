"""The estimates against their sources: the papers' own closed forms, and the weights of the real model."""

from dataclasses import replace
from itertools import pairwise

import pytest

from easyllm.core.megatron.architecture import Architecture
from easyllm.pretrain.estimate import (
    Layout,
    flops_per_token,
    layer_activation_bytes,
    layouts_that_fit,
    memory,
    rank_parameters,
)

GPT = Architecture(
    family="gpt2", layers=24, hidden=1024, heads=16, kv_heads=16, head_dim=64, ffn_hidden=4096, norm="LayerNorm",
    norm_epsilon=1e-5, positions="learned_absolute", rope_theta=None, max_positions=1024, tie_embeddings=True,
    biases=True, gated=False, activation="gelu_tanh", init_std=0.02, dropout=0.1, tokenizer_size=50257,
    padded_vocabulary=50304, tensor_parallel=1,
)  # fmt: skip
LLAMA = replace(
    GPT, family="llama", layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn_hidden=14336, norm="RMSNorm",
    positions="rope", rope_theta=5e5, tie_embeddings=False, biases=False, gated=True, activation="silu", dropout=0.0,
    tokenizer_size=128256, padded_vocabulary=128256,
)  # fmt: skip


@pytest.mark.parametrize("a", [GPT, LLAMA])
def test_one_rank_holds_all_parameters(a: Architecture) -> None:
    assert rank_parameters(a, Layout()) == a.parameters()


def test_ranks_of_a_layout_hold_the_model_between_them() -> None:
    tensor = [rank_parameters(LLAMA, Layout(tensor=size)) for size in (1, 2, 4, 8)]
    assert all(small > large // 2 for large, small in pairwise(tensor)), "norms are on each rank"
    assert rank_parameters(LLAMA, Layout(pipeline=4)) > LLAMA.parameters() // 4, "an end stage has the vocabulary too"


@pytest.mark.parametrize("tensor", [1, 2, 8])
def test_activations_of_a_gpt_layer_are_the_papers(tensor: int) -> None:
    """Korthikanti et al. 2022, equation 2, sbh(10 + 24/t + 5as/ht), and 4, all of it over t with sequence parallel."""
    s, b, h, a = 1024, 4, GPT.hidden, GPT.heads
    plain = Layout(tensor=tensor)
    assert layer_activation_bytes(GPT, plain, b, s) == s * b * h * (10 + 24 / tensor + 5 * a * s / h / tensor)
    parallel = replace(plain, sequence_parallel=True)
    assert layer_activation_bytes(GPT, parallel, b, s) == s * b * h / tensor * (34 + 5 * a * s / h)


def test_work_of_a_gpt_is_the_papers() -> None:
    """Narayanan et al. 2021: 72 B s l h^2 (1 + s/6h + V/12lh), per token and without recomputation."""
    s, h, layers, vocabulary = 1024, GPT.hidden, GPT.layers, GPT.padded_vocabulary
    paper = 72 * layers * h * h * (1 + s / (6 * h) + vocabulary / (12 * layers * h))
    assert flops_per_token(GPT, s) == pytest.approx(paper, rel=1e-12)


@pytest.mark.parametrize(
    ("layout", "bytes_a_weight"),
    [
        (Layout(precision="bf16"), 18),
        (Layout(precision="bf16", data=8, shard_optimizer=True), 6 + 12 / 8),
        (Layout(precision="fp32"), 16),
        (Layout(precision="fp32", data=8, shard_optimizer=True), 8 + 8 / 8),
        (Layout(gradient_bytes=2, data=8, shard_optimizer=True), 4 + 12 / 8),
        (Layout(gradient_bytes=2, data=8, shard_optimizer=True, shard_gradients=True), 2 + 14 / 8),
        (Layout(gradient_bytes=2, data=8, shard_optimizer=True, shard_gradients=True, shard_weights=True), 16 / 8),
        (Layout(offload_optimizer=True), 6),
    ],
)
def test_bytes_a_weight_are_megatrons_and_zeros_tables(layout: Layout, bytes_a_weight: float) -> None:
    cost = memory(LLAMA, layout, 1, 2048)
    states = cost.weights + cost.gradients + cost.optimizer
    assert states == pytest.approx(LLAMA.parameters() * bytes_a_weight, rel=1e-9)


def test_table_of_layouts_names_only_what_fits_and_divides() -> None:
    asked = {"ranks": 8, "global_samples": 64, "micro_samples": 1, "sequence_tokens": 4096}
    found = layouts_that_fit(LLAMA, Layout(shard_optimizer=True), bytes_per_rank=80 * 10**9, **asked)
    assert found
    for layout, cost in found:
        assert layout.ranks == 8
        assert cost.total <= 80 * 10**9
        assert LLAMA.layers % layout.pipeline == 0
        assert LLAMA.kv_heads % layout.tensor == 0
    assert not found[0][0].recompute, "what needs no recomputation comes first"
    assert layouts_that_fit(LLAMA, Layout(), bytes_per_rank=10**9, **asked) == []
