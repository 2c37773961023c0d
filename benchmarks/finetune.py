"""LoRA finetuning on one thread: useful tokens per CPU-second and peak memory of ``easyllm finetune`` and its peers.

    python benchmarks/finetune.py --model DIR [--steps 3] [--rounds 3] [--litgpt DIR] [--trl all]

DIR is SmolLM2-135M-Instruct as transformers saves it (a run of any recipe leaves it in its cache folder). Rows are
made here: random ids, lengths log-normal between 20 and 512, the last two thirds of each its answer. fp32, LoRA of
rank 8 on every linear layer but the head, fused AdamW, 8 rows a step, the same rows in the same steps for all:

* easyllm: method, packing and loop of ``easyllm finetune``;
* TRL's SFTTrainer without padding; ``--trl all`` tries its other settings once and goes on with the best;
* LitGPT, where ``--litgpt`` names a folder with it (``pip install --target DIR --no-deps litgpt==0.5.13
  transformers==4.56.2 tokenizers==0.22.1 huggingface-hub==0.35.3 lightning lightning-utilities torchmetrics
  jsonargparse typeshed-client pytorch-lightning importlib-resources docstring-parser``): its model, its LoRA, its
  chunked loss in the lines of its own loop. The rows of a pass are of like length, which its own loader does not do.

Every contender is a process of its own; they take turns. Counted are the CPU seconds of the steps after the first,
the tokens that are no padding, and the most resident memory of the process. The machine's own speed is measured in
the same round: fp32 products of the model's shapes. A contender's share of it counts 4 operations for each weight of
a linear layer and token (forward, and gradients of what went in; frozen weights have none) and 4 for each weight of
the head and label; attention and adapters are left out.
"""

import argparse
import json
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import MEGA, machine, measure, versions

ROWS_A_STEP, LONGEST, IGNORED = 8, 512, -100
RANK, ALPHA, RATE = 8, 16, 1e-3
TRL: dict[str, dict[str, Any]] = {
    "padding_free, 4 rows a pass": {"padding_free": True, "per_device_train_batch_size": 4},
    "padding_free, 8 rows a pass": {"padding_free": True, "per_device_train_batch_size": 8},
    "packing bfd": {"packing": True, "max_length": 1024, "per_device_train_batch_size": 1},
    "padded, 4 rows a pass": {"per_device_train_batch_size": 4},
}


def rows(steps: int) -> list[list[dict[str, list[int]]]]:
    """The rows of each step, shortest first."""
    draw, made = random.Random(11), []
    for _ in range(steps):
        step = []
        for _ in range(ROWS_A_STEP):
            length = min(LONGEST, max(20, round(draw.lognormvariate(4.6, 0.65))))
            ids = [draw.randrange(1000, 40000) for _ in range(length)]
            step.append({"ids": ids, "labels": [IGNORED] * (length // 3) + ids[length // 3 :]})
        made.append(sorted(step, key=lambda row: len(row["ids"])))
    return made


def easyllm(model: Path, steps: int, micro: str) -> dict[str, Any]:
    from easyllm.core.conversations import Conversation
    from easyllm.core.examples import Example
    from easyllm.finetune.assembly import assemble
    from easyllm.finetune.config import FinetuneConfig
    from easyllm.finetune.order import Step
    from easyllm.finetune.work import Work

    asked = {
        "data": ["rows.jsonl"], "lora": {"rank": RANK, "alpha": ALPHA}, "learning_rate": RATE,
        "batch": {"global_samples": ROWS_A_STEP, "micro_samples": int(micro)}, "checkpoint_every_steps": steps,
    }  # fmt: skip
    source = Conversation((), Path("rows.jsonl"), 1)
    examples = [Example(row["ids"], row["labels"], source) for step in rows(steps) for row in step]
    order = [Step(1, tuple(range(at, at + ROWS_A_STEP))) for at in range(0, len(examples), ROWS_A_STEP)]
    work = Work(
        config=FinetuneConfig.model_validate(asked), directory=model, seed=1234, device="cpu", dtype="float32",
        tokens=json.loads((model / "config.json").read_text("utf-8"))["vocab_size"], pad_id=0, train=examples,
        held_out=[], steps=order, state=Path.cwd() / "state",
    )  # fmt: skip
    training = assemble(work).training
    stamps = _stamped(training)
    training.run()
    tokens = [sum(len(row["ids"]) for row in step) for step in rows(steps)]
    return {"stamps": stamps, "tokens": tokens, "losses": [row.loss for row in training.rows]}


def _stamped(training: Any) -> list[float]:
    """CPU time at the end of every step, which the loop takes by this method."""
    stamps, step = [], training._step

    def stepped(number: int) -> Any:
        found = step(number)
        stamps.append(time.process_time())
        return found

    training._step = stepped
    return stamps


def trl(model: Path, steps: int, setting: str) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    stamps: list[float] = []
    tokens = [0]

    class Stamps(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            stamps.append(time.process_time())
            tokens.append(0)

    class Counting(SFTTrainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(dataset or self.train_dataset)

        def compute_loss(self, model: Any, inputs: Any, *others: Any, **named: Any) -> Any:
            mask = inputs.get("attention_mask")
            tokens[-1] += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
            return super().compute_loss(model, inputs, *others, **named)

    flat = [row for step in rows(steps) for row in step]
    masks = [[int(label != IGNORED) for label in row["labels"]] for row in flat]
    data = Dataset.from_dict({"input_ids": [row["ids"] for row in flat], "completion_mask": masks})
    how = {"max_length": None} | TRL[setting]
    passes = 1 if how.get("packing") else ROWS_A_STEP // how["per_device_train_batch_size"]
    config = SFTConfig(
        output_dir="trl", use_cpu=True, bf16=False, fp16=False, optim="adamw_torch_fused", learning_rate=RATE,
        num_train_epochs=1, gradient_accumulation_steps=passes, gradient_checkpointing=False, logging_steps=1,
        save_strategy="no", report_to=[], disable_tqdm=True, completion_only_loss=True, weight_decay=0.0, **how,
    )  # fmt: skip
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    words = AutoTokenizer.from_pretrained(model)
    trainer = Counting(loaded, config, train_dataset=data, processing_class=words, peft_config=lora)
    trainer.add_callback(Stamps())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"stamps": stamps, "tokens": tokens[:-1], "losses": losses}


def litgpt(model: Path, steps: int, micro: str) -> dict[str, Any]:
    import torch
    from litgpt.lora import GPT, Config, mark_only_lora_as_trainable
    from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint
    from litgpt.utils import chunked_cross_entropy

    own = Path.cwd() / "litgpt"
    if not own.exists():
        own.mkdir()
        for file in model.iterdir():
            (own / file.name).symlink_to(file)
        convert_hf_checkpoint(own, model_name="SmolLM2-135M-Instruct")
        return {}
    where = ("query", "key", "value", "projection", "mlp")
    lora = {"lora_r": RANK, "lora_alpha": ALPHA} | {f"lora_{name}": True for name in where}
    network = GPT(Config.from_file(own / "model_config.yaml", **lora))
    network.load_state_dict(torch.load(own / "lit_model.pth", mmap=True), strict=False)
    mark_only_lora_as_trainable(network)
    network.max_seq_length = LONGEST
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0, fused=True)
    stamps, tokens, losses = [], [], []
    for step in rows(steps):
        total, size = 0.0, int(micro)
        for at in range(0, ROWS_A_STEP, size):
            part = step[at : at + size]
            ids = [torch.tensor(row["ids"]) for row in part]
            labels = [torch.tensor(row["labels"]) for row in part]
            input_ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
            targets = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)
            logits = network(input_ids, lm_head_chunk_size=128)
            logits[-1] = logits[-1][..., :-1, :]
            loss = chunked_cross_entropy(logits, targets[..., 1:]) / (ROWS_A_STEP // size)
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        stamps.append(time.process_time())
        tokens.append(sum(len(row["ids"]) for row in step))
        losses.append(total)
    return {"stamps": stamps, "tokens": tokens, "losses": losses}


def gflops(model: Path, steps: int, _: str) -> dict[str, Any]:
    """fp32 products of the model's own shapes, as many rows as a step has tokens."""
    import torch

    shape = json.loads((model / "config.json").read_text("utf-8"))
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    tokens = sum(len(row["ids"]) for step in rows(steps) for row in step) // steps
    operations, started = 0, time.process_time()
    while time.process_time() - started < 5:
        for into, out in ((width, width), (width, inner), (inner, width)):
            torch.nn.functional.linear(torch.ones(tokens, into), torch.ones(out, into))
            operations += 2 * tokens * into * out
    return {"gflops": operations / (time.process_time() - started) / 1e9}


CONTENDERS: dict[str, Callable[[Path, int, str], dict[str, Any]]] = {
    "easyllm": easyllm, "trl": trl, "litgpt": litgpt, "gflops": gflops,
}  # fmt: skip


def child(name: str, model: str, steps: str, setting: str) -> None:
    found = CONTENDERS[name](Path(model), int(steps), setting)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("\n" + json.dumps(found | {"peak": peak}))


def contend(name: str, asked: argparse.Namespace, work: Path, setting: str) -> dict[str, Any]:
    """What a child found, and from it: useful tokens per CPU-second after the first step."""
    command = [sys.executable, __file__, "--child", name, str(asked.model.absolute()), str(asked.steps), setting]
    if name == "litgpt":
        command = ["env", f"PYTHONPATH={asked.litgpt.absolute()}:{os.environ.get('PYTHONPATH', '')}", *command]
    output = work / "output.txt"
    measure(command, work, output)
    found: dict[str, Any] = json.loads(output.read_text().splitlines()[-1])
    if found.get("stamps"):
        found["speed"] = sum(found["tokens"][1:]) / (found["stamps"][-1] - found["stamps"][0])
        print(f"{name}, {setting}: {found['speed']:.1f} tokens/CPU-s, {found['peak'] / MEGA:,.0f} MB", file=sys.stderr)
    return found


def operations(model: Path, steps: int) -> float:
    """Of one useful token, in thousands of millions: see the head of this file."""
    shape = json.loads((model / "config.json").read_text("utf-8"))
    width, inner, heads = shape["hidden_size"], shape["intermediate_size"], shape["num_attention_heads"]
    narrow = width // heads * shape["num_key_value_heads"]
    weights = shape["num_hidden_layers"] * (2 * width * width + 2 * width * narrow + 3 * width * inner)
    flat = [row for step in rows(steps) for row in step]
    tokens = sum(len(row["ids"]) for row in flat)
    labels = sum(label != IGNORED for row in flat for label in row["labels"])
    return 4 * (weights + shape["vocab_size"] * width * labels / tokens) / 1e9


def main() -> None:
    """Run every contender in turn, print the table."""
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    asked = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        settings = {"easyllm": asked.micro, "trl": next(iter(TRL))}
        if asked.trl == "all":
            speeds = {setting: contend("trl", asked, work, setting)["speed"] for setting in TRL}
            settings["trl"] = max(speeds, key=lambda setting: speeds[setting])
        if asked.litgpt:
            contend("litgpt", asked, work, "4")
            settings["litgpt"] = "4"
        else:
            print("litgpt: not installed")
        rounds = []
        for _ in range(asked.rounds):
            speed = contend("gflops", asked, work, "")["gflops"]
            rounds.append({"gflops": speed} | {n: contend(n, asked, work, s) for n, s in settings.items()})
    table(asked, settings, rounds)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3, help=f"of {ROWS_A_STEP} rows; the first is not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--micro", default="4", help="batch.micro_samples of easyllm")
    parser.add_argument("--litgpt", type=Path, help="folder that LitGPT is installed in")
    parser.add_argument("--trl", choices=("best", "all"), default="best")
    return parser.parse_args()


def table(asked: argparse.Namespace, settings: dict[str, str], rounds: list[dict[str, Any]]) -> None:
    each, own = operations(asked.model, asked.steps), rounds[0]["easyllm"]["losses"][0]
    print(machine(versions("torch", "transformers", "peft", "trl")))
    print("fp32 products, GFLOP/s: " + ", ".join(f"{found['gflops']:.1f}" for found in rounds))
    print("\n| | tokens per CPU-second | easyllm to it, each round | peak, MB | easyllm to it | share | first loss |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for name, setting in settings.items():
        speed = statistics.median(found[name]["speed"] for found in rounds)
        peak = statistics.median(found[name]["peak"] for found in rounds)
        memory = statistics.median(found["easyllm"]["peak"] / found[name]["peak"] for found in rounds)
        ratios = [found["easyllm"]["speed"] / found[name]["speed"] for found in rounds]
        share = statistics.median(found[name]["speed"] * each / found["gflops"] for found in rounds)
        told = ", ".join(f"{ratio:.2f}" for ratio in ratios) + f"; median {statistics.median(ratios):.2f}"
        loss = rounds[0][name]["losses"][0]
        agree = f"{loss:.5f}" if abs(loss - own) < 1e-3 or name == "litgpt" else f"{loss:.5f} (another)"
        cells = (f"{name}, {setting}", f"{speed:.1f}", told, f"{peak / MEGA:,.0f}", f"{memory:.2f}", f"{share:.0%}")
        print(f"| {' | '.join(cells)} | {agree} |")


if __name__ == "__main__":
    main()
