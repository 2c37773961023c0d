"""The CPU shim, the model's construction and the checkpoints that pretrain and convert share."""

import sys
from typing import Any

import pytest

from easyllm.core.megatron import cpu
from easyllm.core.megatron.architecture import Architecture, padded_vocabulary
from tiny_megatron import last_json, run_python

LLAMA = Architecture(
    family="llama", layers=2, hidden=32, heads=4, kv_heads=2, head_dim=8, ffn_hidden=48, norm="RMSNorm",
    norm_epsilon=1e-5, positions="rope", rope_theta=10000.0, max_positions=16, tie_embeddings=False, biases=False,
    gated=True, activation="silu", init_std=0.02, dropout=0.1, tokenizer_size=100, padded_vocabulary=128,
    tensor_parallel=1,
)  # fmt: skip
GPT2 = Architecture(
    family="gpt2", layers=3, hidden=32, heads=4, kv_heads=4, head_dim=8, ffn_hidden=128, norm="LayerNorm",
    norm_epsilon=1e-5, positions="learned_absolute", rope_theta=None, max_positions=16, tie_embeddings=True,
    biases=True, gated=False, activation="gelu_tanh", init_std=0.02, dropout=0.0, tokenizer_size=100,
    padded_vocabulary=128, tensor_parallel=1,
)  # fmt: skip

SCRIPT = """
import json, os, tempfile
from dataclasses import replace
from pathlib import Path
os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
import torch
from easyllm.core.megatron import cpu
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.megatron.layout import Layout
from easyllm.core.megatron.session import megatron_session, rank_device
from easyllm.pretrain.config import PretrainConfig
found = {}
counted = cpu.trace()
device = rank_device("cpu")
llama, gpt2 = (Architecture.from_record(r) for r in json.loads(os.environ["ARCHITECTURES"]))

def main():
    from megatron.core.tensor_parallel import get_cuda_rng_tracker
    from easyllm.core.megatron.checkpoint import load_whole, rng_state, set_rng_state
    from easyllm.core.megatron.model import build_model
    from easyllm.pretrain.engine_megatron import MegatronEngine

    variants = {"llama": llama, "llama tied": replace(llama, tie_embeddings=True), "gpt2": gpt2}
    for name, a in variants.items():
        [model] = build_model(a, device)
        found[name] = [a.parameters(), sum(p.numel() for p in model.parameters())]

    config = PretrainConfig.model_validate({
        "model": {"family": "llama", "layers": 2, "hidden": 32, "heads": 4}, "sequence_tokens": 16,
        "batch": {"global_samples": 4, "micro_samples": 2}, "steps": 4,
        "optimizer": {"warmup_steps": 0, "distributed": True}})
    engine = MegatronEngine(llama, config, device, 1234)
    ids = torch.arange(34).reshape(2, 17)
    batch = {"tokens": ids[:, :-1], "labels": ids[:, 1:], "loss_mask": torch.ones(2, 16),
             "position_ids": torch.arange(16).repeat(2, 1)}
    steps = lambda n: [engine.train_step(lambda: iter([batch, batch]), 2, 4).loss for _ in range(n)]
    found["losses"] = steps(2)
    place = Path(tempfile.mkdtemp()) / "step-000002"
    engine.save(place, {"step": 2}).finish()
    found["files"] = sorted(p.name for p in place.parent.iterdir())
    on = steps(2)
    again = MegatronEngine.load(engine, place)
    found["progress"], found["replayed"] = again, [on, steps(2)]
    for name, a in {"vocabulary": replace(llama, padded_vocabulary=256), "same": llama}.items():
        try:
            load_whole(place, a, {"model": build_model(a, device)[0].sharded_state_dict()})
            found[name] = "loaded"
        except RuntimeError as error:
            found[name] = str(error)

    tracker, before = get_cuda_rng_tracker(), rng_state()
    def draw():
        with tracker.fork():
            inside = torch.rand(1).item()
        return [inside, torch.rand(1).item()]
    first, second = draw(), draw()
    set_rng_state(before)
    found["drawn"] = [first, second, draw()]

if __name__ == "__main__":
    with megatron_session(device, Layout(), 1234):
        main()
    found["traced"] = sorted({patch for patch, _ in counted})
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What one process with the shim and a real engine saw."""
    import json

    records = json.dumps([LLAMA.as_record(), GPT2.as_record()])
    return dict(last_json(run_python(SCRIPT, ARCHITECTURES=records)))


def test_every_patch_of_the_cpu_shim_is_still_forced_by_upstream(found: dict[str, Any]) -> None:
    assert found["traced"] == sorted(patch.name for patch in cpu.PATCHES)


@pytest.mark.parametrize("name", ["llama", "llama tied", "gpt2"])
def test_the_plans_parameter_count_is_the_models(found: dict[str, Any], name: str) -> None:
    counted, real = found[name]
    assert counted == real


def test_a_loaded_checkpoint_goes_on_with_the_same_losses_under_dropout(found: dict[str, Any]) -> None:
    went_on, replayed = found["replayed"]
    assert went_on == replayed
    assert found["losses"][1] < found["losses"][0]
    assert found["progress"] == {"architecture": LLAMA.as_record(), "step": 2}
    assert found["files"] == ["step-000002"]


def test_a_checkpoint_with_another_padded_vocabulary_is_refused(found: dict[str, Any]) -> None:
    assert "padded_vocabulary 128 (asked 256)" in found["vocabulary"]
    assert found["same"] == "loaded"


def test_dropout_generators_are_restored_and_keep_out_of_each_others_way(found: dict[str, Any]) -> None:
    first, second, restored = found["drawn"]
    assert restored == first
    assert len({*first, *second}) == 4


def test_the_shim_refuses_a_process_that_has_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "needed", lambda: False)
    with pytest.raises(RuntimeError, match="without CUDA"):
        cpu.install()


def test_the_shim_refuses_to_come_after_megatron(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "megatron.core", object())
    with pytest.raises(RuntimeError, match="before the first import"):
        cpu.install()


def test_the_vocabulary_is_padded_to_128_rows_a_tensor_parallel_rank() -> None:
    assert [padded_vocabulary(n, t) for n, t in ((257, 1), (257, 2), (256, 2), (8000, 1))] == [384, 512, 256, 8064]
