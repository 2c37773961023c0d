"""Every family's table against stock transformers and Megatron-Core, every weight shaken so that a mix-up shows."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from easyllm.core.errors import StageFailed, UserError
from easyllm.core.families.config import architecture_of, hf_config, read_architecture
from easyllm.core.families.mapping import HOW, AsHf, AsMegatron, fuse_qkv, rules, split_qkv
from easyllm.core.families.tables import BAICHUAN, FAMILIES, INTERNLM2, LLAMA, NOT_EXPRESSED
from easyllm.core.families.weights import HfFiles
from easyllm.core.megatron.architecture import Architecture
from tiny_families import CASES, VOCABULARY, make_model, read_config
from tiny_megatron import last_json, run_python

TOKENS = 60
"""More than the window and the original positions of the scaled rope."""


class InMemory(dict[str, torch.Tensor]):
    """Weights that lie in memory."""

    def names(self) -> list[str]:
        return list(self)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self[name].dtype

    def read(self, name: str) -> torch.Tensor:
        return self[name].clone()


def read_all(weights: Any) -> InMemory:
    return InMemory({name: weights.read(name) for name in weights.names()})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one of every case."""
    out = tmp_path_factory.mktemp("families")
    for case in CASES:
        make_model(case, out / case)
    return out


def architecture(directory: Path) -> Architecture:
    return read_architecture(directory, "convert", "convert.model")


@pytest.mark.parametrize("case", CASES)
def test_there_and_back_is_bitwise_in_both_directions(models: Path, case: str) -> None:
    stored, a = HfFiles(models / case), architecture(models / case)
    made = AsMegatron(stored, a)
    megatron = read_all(made)
    assert {name: made.shape(name) for name in made.names()} == {name: megatron.shape(name) for name in megatron}
    assert a.parameters() == sum(tensor.numel() for tensor in megatron.values())
    assert megatron["embedding.word_embeddings.weight"].shape[0] == a.padded_vocabulary == 384
    again = AsHf(megatron, a)
    hf = read_all(again)
    assert hf.keys() == set(stored.names())
    for name in hf:
        assert torch.equal(hf[name], stored.read(name)), name
        assert again.shape(name) == stored.shape(name)
    once_more = read_all(AsMegatron(hf, a))
    assert once_more.keys() == megatron.keys()
    for name in megatron:
        assert torch.equal(once_more[name], megatron[name]), name


def test_what_is_stored_in_bf16_stays_so_bit_for_bit(tmp_path: Path) -> None:
    stored = HfFiles(make_model("qwen2", tmp_path, "bfloat16"))
    a = architecture(tmp_path)
    megatron = read_all(AsMegatron(stored, a))
    assert {tensor.dtype for tensor in megatron.values()} == {torch.bfloat16}
    back = AsHf(megatron, a)
    assert all(torch.equal(back.read(name), stored.read(name)) for name in back.names())


@pytest.mark.parametrize("case", CASES)
def test_a_configuration_comes_back_as_it_was(models: Path, case: str) -> None:
    import transformers

    a = architecture(models / case)
    config = getattr(transformers, FAMILIES[a.family].config_class)(**hf_config(a))
    again = architecture_of(config.to_dict()).as_record()
    del again["special_ids"]  # the tokenizer's to say
    assert again.items() <= a.as_record().items()


def test_files_of_the_time_before_rope_parameters_say_the_same(models: Path) -> None:
    new = read_config(models / "llama3")
    rope = new.pop("rope_parameters")
    old = new | {"rope_theta": rope.pop("rope_theta"), "rope_scaling": {"type": rope.pop("rope_type"), **rope}}
    assert architecture_of(old) == architecture(models / "llama3")
    neox = read_config(models / "gpt_neox")
    del neox["rope_parameters"]
    assert architecture_of(neox | {"rotary_pct": 0.25, "rotary_emb_base": 10000}) == architecture(models / "gpt_neox")


COMPARE = """
import json, os, sys
from pathlib import Path
os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
import torch
from safetensors.torch import load_file
from easyllm.core.megatron.layout import Layout
from easyllm.core.megatron.session import megatron_session, rank_device
device, root, found = rank_device("cpu"), Path(os.environ["ROOT"]), {}
with megatron_session(device, Layout(), 7):
    from easyllm.core.families.config import read_architecture
    from easyllm.core.families.mapping import AsMegatron
    from easyllm.core.families.weights import HfFiles
    from easyllm.core.megatron.model import build_model
    for case in json.loads(os.environ["CASES"]):
        a = read_architecture(root / case, "convert", "convert.model")
        [model] = build_model(a, device, source=AsMegatron(HfFiles(root / case), a))
        theirs = load_file(root / case / "theirs")
        ids = theirs["ids"]
        places = torch.arange(ids.shape[1])[None].expand_as(ids)
        loss = model(ids[:, :-1], places[:, :-1], None, labels=ids[:, 1:]).mean()
        loss.backward()
        rows = (model.embedding.word_embeddings if a.tie_embeddings else model.output_layer).weight.grad
        with torch.no_grad():
            logits = model.eval()(ids, places, None)[..., : a.tokenizer_size]
        found[case] = {
            "apart": float((logits - theirs["logits"]).abs().max()),
            "largest": float(theirs["logits"].abs().max()),
            "loss": loss.item() - theirs["loss"].item(),
            "padding": float(rows[a.tokenizer_size :].abs().max()),
            "weights": sum(p.numel() for p in model.parameters()) == a.parameters(),
        }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def compared(models: Path) -> dict[str, Any]:
    """Megatron-Core's logits and loss against transformers' own, by case; one process builds them all."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    ids = torch.randint(0, VOCABULARY, (2, TOKENS), generator=torch.Generator().manual_seed(3))
    for case in CASES:
        model = AutoModelForCausalLM.from_pretrained(models / case, attn_implementation="eager").eval()
        with torch.no_grad():
            out = model(ids, labels=ids)
        save_file({"ids": ids, "logits": out.logits, "loss": out.loss[None]}, models / case / "theirs")
    found: dict[str, Any] = last_json(run_python(COMPARE, ROOT=str(models), CASES=json.dumps(list(CASES))))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_megatron_says_what_transformers_says(compared: dict[str, Any], case: str) -> None:
    found = compared[case]
    assert found["largest"] > 5  # logits that mean something
    assert found["apart"] < 3e-6 * found["largest"], found
    assert abs(found["loss"]) < 1e-5  # padded rows take no part
    assert found["padding"] == 0.0
    assert found["weights"]


def test_internlm2_and_baichuan_carry_the_tensors_of_a_llama(models: Path, tmp_path: Path) -> None:
    """Their files are made here from a llama's, as their own modelling code orders them."""
    a = architecture(models / "llama")
    hf = read_all(HfFiles(models / "llama"))
    wanted = read_all(AsMegatron(hf, a))
    for family in (INTERNLM2, BAICHUAN):
        theirs: dict[str, torch.Tensor] = {}
        for rule in rules(a, family):
            made = HOW[rule.how][0](wanted[rule.megatron], a)
            theirs |= dict(zip(rule.hf, (part.clone() for part in made), strict=True))
        found = read_all(AsMegatron(InMemory(theirs), a, family))
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    packed = torch.cat([hf[f"model.layers.0.self_attn.{x}_proj.weight"] for x in "qkv"])
    assert torch.equal(theirs["model.layers.0.self_attn.W_pack.weight"], packed)
    config = read_config(models / "llama") | {"model_type": "internlm2"}
    assert architecture_of(config).family == "llama"


def refused(config: dict[str, Any], tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        architecture(tmp_path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("family", "said", "code"),
    [
        (None, {"model_type": "mamba"}, "CONVERT-010  .* models of type mamba"),
        *((None, {"model_type": name}, f"CONVERT-011  .*{name}: ") for name in NOT_EXPRESSED),
        ("llama", {"attention_bias": True}, "CONVERT-012  .*attention_bias is True"),
        ("llama", {"hidden_act": "gelu"}, "CONVERT-012  .*hidden_act is gelu"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "CONVERT-012  .*rope_type is yarn"),
        ("qwen2", {"use_sliding_window": True}, "CONVERT-012  .*use_sliding_window"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "CONVERT-012"),
        ("gpt_neox", {"attention_bias": False}, "CONVERT-012"),
        ("llama", {"model_type": "baichuan", "vocab_size": 125696}, "CONVERT-012  .*vocab_size is 125696"),
        ("llama", {"hidden_size": None, "model_type": "baichuan", "vocab_size": 64000}, None),
    ],
)
def test_what_megatron_cannot_express_is_refused_by_name(
    models: Path, tmp_path: Path, family: str | None, said: dict[str, Any], code: str | None
) -> None:
    config = (read_config(models / family) if family else {}) | said
    if code is None:  # the 13B has no max_position_embeddings
        del config["max_position_embeddings"]
        code = "CONVERT-013  .*max_position_embeddings is missing"
    assert re.search(code, refused(config, tmp_path))


def test_a_config_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="CONVERT-014"):
        architecture(tmp_path)


def test_files_of_the_bare_model_and_their_old_buffers_are_read(models: Path) -> None:
    a = architecture(models / "gpt2")
    whole = read_all(HfFiles(models / "gpt2"))
    bare = InMemory({name.removeprefix("transformer."): tensor for name, tensor in whole.items()})
    bare |= {"h.0.attn.bias": torch.ones(1, 1, 8, 8), "lm_head.weight": whole["transformer.wte.weight"]}
    found, wanted = read_all(AsMegatron(bare, a)), read_all(AsMegatron(whole, a))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_tensor_without_a_rule_a_missing_one_and_another_shape_stop_the_conversion(models: Path) -> None:
    a = architecture(models / "llama")
    hf = read_all(HfFiles(models / "llama"))
    with pytest.raises(StageFailed, match="no rule of llama for extra"):
        AsMegatron(InMemory(hf | {"extra": torch.zeros(1)}), a)
    short = InMemory({name: tensor for name, tensor in hf.items() if "layers.1.mlp.down" not in name})
    with pytest.raises(StageFailed, match=r"no tensor model\.layers\.1\.mlp\.down_proj\.weight"):
        AsMegatron(short, a)
    with pytest.raises(StageFailed, match=r"lm_head\.weight has 300 rows, config\.json says 301"):
        AsMegatron(InMemory(hf | {"lm_head.weight": torch.zeros(300, 64)}), a).read("output_layer.weight")
    megatron = read_all(AsMegatron(hf, a))
    with pytest.raises(StageFailed, match="no rule of llama for extra"):
        AsHf(InMemory(megatron | {"extra": torch.zeros(1)}), a)
    del megatron["decoder.layers.1.mlp.linear_fc2.weight"]
    with pytest.raises(StageFailed, match=r"no tensor decoder\.layers\.1\.mlp\.linear_fc2\.weight"):
        AsHf(megatron, a)


def test_splitting_qkv_undoes_the_merge_of_every_query_group(models: Path) -> None:
    a = architecture(models / "llama")
    q, k, v = torch.rand(128, 5), torch.rand(32, 5), torch.rand(32, 5)
    fused = torch.cat([q.view(2, 64, 5), k.view(2, 16, 5), v.view(2, 16, 5)], 1).flatten(0, 1)
    assert torch.equal(fuse_qkv((q, k, v), a), fused)
    assert all(torch.equal(x, y) for x, y in zip(split_qkv(fused, a), (q, k, v), strict=True))


def test_every_rule_names_a_way_that_exists() -> None:
    used = {rule.how for family in FAMILIES.values() for rule in (*family.once, *family.per_layer)}
    assert used == set(HOW)
    assert FAMILIES["llama"] is LLAMA
