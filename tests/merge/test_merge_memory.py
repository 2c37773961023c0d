"""A merge holds one model at a time, however often it has to ask one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_tune import make_job, publish, tiny_tokenizer, write_rows

PROGRAM = """
import json, pathlib, sys
import peft, torch, transformers.models.llama.modeling_llama
import tiny_tune
from easyllm.core.memory import give_memory_back

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

torch.set_num_threads(1)
give_memory_back()
before = status("VmRSS")
tiny_tune.publish(tiny_tune.make_job(pathlib.Path(sys.argv[1]), "merge", {"shard_gb": 0.05}))
print(json.dumps(status("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process its peak")
def test_a_merge_never_holds_the_model_twice(tmp_path: Path) -> None:
    """On 310 MB of weights: large beside what the libraries take, small enough to ask in seconds."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tiny_tokenizer()
    shape = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 6, "num_attention_heads": 8}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 256}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **shape, **ids)).save_pretrained(tmp_path / "base")
    words.save_pretrained(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl")
    asked = {"base": "base", "data": ["rows.jsonl"], "max_steps": 1, "sequence_tokens": 128, "warmup_ratio": 0}
    publish(make_job(tmp_path, "finetune", asked))
    size = (tmp_path / "base" / "model.safetensors").stat().st_size
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    taken = json.loads(done.stdout.splitlines()[-1])
    assert 0.9 * size < taken < 1.8 * size, (taken, size)
