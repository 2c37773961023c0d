"""The mapping tables against stock Hugging Face models, with every weight shaken so that a mix-up shows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from easyllm.convert.families import FAMILIES
from easyllm.convert.hf_model import logits_of, write_model
from easyllm.convert.mapping import HOW, split_qkv, to_hf
from easyllm.convert.plan import TOLERANCE
from easyllm.core.errors import StageFailed
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.parity import Parity, compare
from tiny_megatron import run_python

LLAMA = Architecture(
    family="llama", layers=3, hidden=64, heads=8, kv_heads=2, head_dim=8, ffn_hidden=96, norm="RMSNorm",
    norm_epsilon=1e-5, positions="rope", rope_theta=500000.0, max_positions=32, tie_embeddings=False,
    biases=False, gated=True, activation="silu", init_std=0.2, dropout=0.0, tokenizer_size=300,
    padded_vocabulary=384, tensor_parallel=1, special_ids={"eod": 0},
)  # fmt: skip
MODELS = {
    "llama": LLAMA,
    "llama-tied": replace(LLAMA, tie_embeddings=True, kv_heads=8, rope_theta=10000.0),
    "gpt2": replace(
        LLAMA, family="gpt2", kv_heads=8, norm="LayerNorm", positions="learned_absolute", rope_theta=None,
        tie_embeddings=True, biases=True, gated=False, activation="gelu_tanh", ffn_hidden=256,
    ),
}  # fmt: skip

SHAKE = """
import json, os
from pathlib import Path
os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
import torch
from safetensors.torch import save_file
from easyllm.convert.read_megatron import logits, weights
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.megatron.layout import Layout
from easyllm.core.megatron.session import megatron_session, rank_device

device, out = rank_device("cpu"), Path(os.environ["OUT"])
with megatron_session(device, Layout(), 7):
    from easyllm.core.megatron.model import build_model

    for name, record in json.loads(os.environ["MODELS"]).items():
        model = build_model(Architecture.from_record(record), device)[0].eval()
        for key, p in model.named_parameters():
            norm = "layernorm" in key and key.endswith("weight")
            torch.nn.init.normal_(p, 1.0 if norm else 0.0, 0.3 if norm else 0.2)
        save_file(weights(model), out / f"{name}.weights")
        found = {str(i): logits(model, ids) for i, ids in enumerate(json.loads(os.environ["PROMPTS"]))}
        save_file(found, out / f"{name}.logits")
"""
PROMPTS = [list(range(0, 300, 10)), [5, 299, 17, 17, 0, 123], list(range(299, 267, -1))]


@pytest.fixture(scope="module")
def shaken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Megatron's weights and logits of every model, from a process of their own."""
    out = tmp_path_factory.mktemp("shaken")
    models = {name: a.as_record() for name, a in MODELS.items()}
    run_python(SHAKE, OUT=str(out), MODELS=json.dumps(models), PROMPTS=json.dumps(PROMPTS))
    return out


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models

    words = {f"w{i}": i for i in range(300)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "w0")), eos_token="w0")


def parity(shaken: Path, name: str, tensors: dict[str, torch.Tensor], out: Path) -> Parity:
    a = MODELS[name]
    write_model(tensors, a, tokenizer(), out)
    theirs = load_file(shaken / f"{name}.logits")
    left = [theirs[str(i)][:, : a.tokenizer_size] for i in range(len(PROMPTS))]
    assert max(float(t.std()) for t in left) > 1  # logits that mean something
    tolerance = TOLERANCE * max(float(t.abs().max()) for t in left)
    return compare(left, logits_of(out, PROMPTS), ("Megatron-Core", "transformers"), tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_pit_16_a_shaken_model_says_the_same_in_hugging_face(shaken: Path, tmp_path: Path, name: str) -> None:
    tensors = to_hf(load_file(shaken / f"{name}.weights"), MODELS[name])
    found = parity(shaken, name, tensors, tmp_path)
    assert found.holds, found
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["vocab_size"], config["architectures"]) == (300, [FAMILIES[MODELS[name].family].hf_class])
    assert config["eos_token_id"] == 0
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == 0


@pytest.mark.parametrize("key", ["q_proj", "k_proj", "v_proj"])
def test_two_swapped_rows_of_one_qkv_are_caught(shaken: Path, tmp_path: Path, key: str) -> None:
    tensors = to_hf(load_file(shaken / "llama.weights"), LLAMA)
    weight = tensors[f"model.layers.2.self_attn.{key}.weight"]
    weight[[3, 4]] = weight[[4, 3]]
    with pytest.raises(StageFailed, match="PARITY"):
        parity(shaken, "llama", tensors, tmp_path).require()


def test_swapped_norms_and_swapped_gate_and_up_are_caught(shaken: Path, tmp_path: Path) -> None:
    for a, b in (("input_layernorm", "post_attention_layernorm"), ("mlp.gate_proj", "mlp.up_proj")):
        tensors = to_hf(load_file(shaken / "llama.weights"), LLAMA)
        a, b = (f"model.layers.0.{name}.weight" for name in (a, b))
        tensors[a], tensors[b] = tensors[b], tensors[a]
        assert not parity(shaken, "llama", tensors, tmp_path).holds


def test_pit_17_padded_rows_are_cut_and_real_rows_kept_bit_for_bit(shaken: Path) -> None:
    megatron = load_file(shaken / "llama.weights")
    tensors = to_hf(megatron, LLAMA)
    assert megatron["output_layer.weight"].shape[0] == 384
    assert torch.equal(tensors["lm_head.weight"], megatron["output_layer.weight"][:300])


def test_a_tensor_without_a_rule_or_a_missing_one_stops_the_conversion(shaken: Path) -> None:
    megatron = load_file(shaken / "llama.weights")
    with pytest.raises(StageFailed, match="no rule of llama for extra"):
        to_hf(megatron | {"extra": torch.zeros(1)}, LLAMA)
    del megatron["decoder.layers.1.mlp.linear_fc2.weight"]
    with pytest.raises(StageFailed, match=r"no tensor decoder\.layers\.1\.mlp\.linear_fc2\.weight"):
        to_hf(megatron, LLAMA)


def test_splitting_qkv_undoes_the_merge_of_every_query_group() -> None:
    q, k, v = torch.rand(64, 5), torch.rand(16, 5), torch.rand(16, 5)
    merged = torch.cat([q.view(2, 32, 5), k.view(2, 8, 5), v.view(2, 8, 5)], 1).flatten(0, 1)
    assert all(torch.equal(a, b) for a, b in zip(split_qkv(merged, LLAMA), (q, k, v), strict=True))


def test_every_rule_names_a_way_that_exists() -> None:
    used = {rule.how for family in FAMILIES.values() for rule in (*family.once, *family.per_layer)}
    assert used == set(HOW)
