"""Training itself: it learns, it is reproducible, and a killed run goes on as if nothing had been."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from easyllm.core.chat import load_tokenizer, seal
from easyllm.core.conversations import read_conversations
from easyllm.core.errors import StageFailed, UserError
from easyllm.core.models import load_model
from easyllm.finetune import state
from easyllm.finetune.training import Training
from tiny_tune import FINETUNE, ROWS, make_job, publish, tune, write_base, write_rows


def losses(folder: Path) -> list[float]:
    with (folder / "losses.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_the_adapter_learns_and_stock_peft_loads_it(tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    manifest = tune(tmp_path, epochs=6)
    out = tmp_path / "run" / "finetune"
    assert manifest.kind == "adapter"
    assert manifest.metrics["last_loss"] < 0.7 * manifest.metrics["first_loss"]
    assert len(losses(out)) == manifest.metrics["steps"] == 6 * len(ROWS) // 4
    model = AutoPeftModelForCausalLM.from_pretrained(str(out)).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        tuned = model(input_ids=ids).logits
        base = load_model(tmp_path / "base", torch.float32)(input_ids=ids).logits
        assert not torch.equal(tuned, base)
        with model.disable_adapter():
            assert torch.equal(model(input_ids=ids).logits, base)  # the base itself was not touched
    assert manifest.records["template"]["hash"] == seal(load_tokenizer(out))["hash"]
    assert manifest.records["base"]["ref"] == "base"
    assert not list(out.glob(".*"))
    assert (out / "losses.png").stat().st_size > 5000
    counted = json.loads((out / "label_audit.json").read_text())
    assert counted["rows_without_labels"] == counted["rows_without_end"] == 0
    assert 0 < counted["share"] < 1


def test_the_same_seed_gives_the_same_adapter_byte_for_byte(tmp_path: Path) -> None:
    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        write_base(tmp_path / name / "base")
        write_rows(tmp_path / name / "rows.jsonl")
        publish(make_job(tmp_path / name, "finetune", FINETUNE | {"lora": {"dropout": 0.1}}, seed))
        digests.append((tmp_path / name / "run" / "finetune" / "adapter_model.safetensors").read_bytes())
    assert digests[0] == digests[1] != digests[2]


def test_micro_batches_do_not_change_what_is_learnt(tmp_path: Path) -> None:
    curves = []
    for micro in (1, 4):
        folder = tmp_path / str(micro)
        folder.mkdir()
        tune(folder, batch={"global_samples": 4, "micro_samples": micro})
        curves.append(losses(folder / "run" / "finetune"))
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


PROGRAM = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
import tiny_tune
tiny_tune.tune(pathlib.Path(sys.argv[2]), **json.loads(sys.argv[3]))
"""


def test_killed_finetuning_goes_on_with_the_same_losses(tmp_path: Path) -> None:
    """kill -9 after the second state, with dropout drawing numbers; then the same command again."""
    changes = {"epochs": 12, "checkpoint_every_steps": 3, "lora": {"rank": 4, "dropout": 0.1}}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    tune(whole, **changes)
    cut.mkdir()
    write_base(cut / "base")
    write_rows(cut / "rows.jsonl")
    here = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", PROGRAM, here, str(cut), json.dumps(changes)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], start_new_session=True)
    states = cut / "run" / "finetune.partial" / ".state"
    deadline = time.monotonic() + 120
    while not (states.is_dir() and any(int(f.name[5:13]) >= 6 for f in states.glob("step-*.pt"))):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (cut / "run" / "finetune").exists()
    assert "⟦" in (states.parent / "label_audit.md").read_text("utf-8")  # there to be read while it trains
    kept = state.load(states, state.newest_step(states))
    # What a kill in the middle of a write leaves: it must never win over the whole state.
    (states / "step-99999999.pt.half").write_bytes(b"PK\x03\x04 half a file")

    tune(cut, **changes)
    before, after = losses(whole / "run" / "finetune"), losses(cut / "run" / "finetune")
    assert 6 <= len(kept["rows"]) < len(after) == len(before)
    assert after == pytest.approx(before, abs=1e-6)
    adapters = [load_file(folder / "run" / "finetune" / "adapter_model.safetensors") for folder in (whole, cut)]
    for name, tensor in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], tensor, atol=1e-6, rtol=0)


def test_pit_10_a_loss_that_is_not_a_number_stops_with_a_diagnosis(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(StageFailed, match=r"TRAIN-005.*step 1: loss nan.*first step already fails"):
        tune(tmp_path)


def test_pit_10_a_loss_of_exactly_zero_stops_with_a_diagnosis() -> None:
    training = SimpleNamespace(
        _engine=SimpleNamespace(dtype=torch.float32), _config=SimpleNamespace(learning_rate=1e-3)
    )
    with pytest.raises(StageFailed, match=r"TRAIN-004.*step 7: loss 0.*fp16 overflow"):
        Training._check(training, 7, 0.0, 1.0)
    Training._check(training, 7, 0.5, 1.0)  # and says nothing of a good step


def test_a_learning_rate_that_blows_up_stops_and_says_which_option_to_lower(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"TRAIN-006.*Lower finetune.learning_rate \(now 1e\+20\)"):
        tune(tmp_path, learning_rate=1e20, warmup_ratio=0, epochs=20)


def test_held_out_rows_are_kept_beside_the_adapter_and_not_trained_on(tmp_path: Path) -> None:
    manifest = tune(tmp_path, validation_rows=3)
    kept = list(read_conversations([tmp_path / "run" / "finetune" / "held_out.jsonl"], "finetune"))
    every = {row.digest for row in read_conversations([tmp_path / "rows.jsonl"], "finetune")}
    assert len(kept) == 3
    assert {row.digest for row in kept} <= every
    assert manifest.metrics["rows"] == len(ROWS) - 3
    assert manifest.records["held_out"] == {"path": "held_out.jsonl", "rows": 3}


def test_a_base_without_a_chat_template_is_tuned_with_a_plain_one(tmp_path: Path) -> None:
    write_base(tmp_path / "base", template=None)
    manifest = tune(tmp_path)
    assert [d.value for d in manifest.decisions if d.what == "chat_template"] == ["plain"]
    out = tmp_path / "run" / "finetune"
    assert seal(load_tokenizer(out))["hash"] == manifest.records["template"]["hash"]


def test_a_base_without_template_and_end_token_is_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base", template=None, eos=None)
    with pytest.raises(UserError, match="TEMPLATE-004"):
        tune(tmp_path)


def test_gpt2s_transposed_layers_are_tuned_too(tmp_path: Path) -> None:
    write_base(tmp_path / "base", "gpt2")
    manifest = tune(tmp_path, epochs=8)
    assert manifest.records["targets"]["layers"] == 2 * 4
    assert manifest.metrics["last_loss"] < 0.8 * manifest.metrics["first_loss"]
