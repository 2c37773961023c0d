"""Pretraining on one thread: tokens per CPU-second of ``easyllm pretrain`` beside its peers, losses compared.

    python benchmarks/pretrain.py [--steps 30] [--repeats 3] [--engines megatron,deepspeed] [--work DIR]

One llama-style model, the same first weights (ours, converted), the same samples in the same order, AdamW with the
same settings, clipping, fp32, one thread, one rank. The peers train transformers' LlamaForCausalLM:

* a plain PyTorch loop: model, loss, backward, clip, torch's fused AdamW, nothing else;
* transformers.Trainer with its own defaults and the same settings.

They are given the samples ready in an array; easyllm reads its corpus, writes its curves and watches its ranks. Every
contender is a whole command: the CPU time of all its processes, less that of the same command over 2 steps, so that
importing and building do not count. Contenders take turns; the figures are medians of the repeats. "the same" losses
are those within 1e-4 of ours, relative, at each of the first 20 steps.
"""

import argparse
import csv
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import MEGA, machine, measure, versions

MODEL = {
    "family": "llama", "layers": 4, "hidden": 256, "heads": 8, "kv_heads": 4, "ffn_hidden": 704, "tie_embeddings": True,
}  # fmt: skip
VOCABULARY = 8064
"""A multiple of 128: no rows are padded, so that all contenders have the same."""
SAMPLES, LENGTH = 8, 256
RATE, BETA2, DECAY, CLIP, SEED = 1e-3, 0.95, 0.1, 1.0, 1234
FEW = 2
"""Steps of the command whose time is taken off."""
COMPARED, TOLERANCE = 20, 1e-4


@dataclass(frozen=True)
class Measured:
    """One run of one contender, start-up taken off."""

    cpu_seconds: float
    peak_bytes: int
    losses: list[float]


def main() -> None:
    """Make corpus, first weights and samples, run every contender in turn, print the table."""
    if sys.argv[1:2] == ["--peer"]:
        peer(*sys.argv[2:])
        return
    asked = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        work = (asked.work or Path(scratch)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        prepare(work, asked.steps)
        print(machine(versions("torch", "megatron-core", "transformers", "accelerate")))
        table(asked.steps, asked.repeats, contenders(work, asked.steps, asked.engines.split(",")))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help=f"optimizer steps of {SAMPLES} x {LENGTH} tokens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engines", default="megatron", help="of easyllm, with commas between")
    parser.add_argument("--work", type=Path, help="keep corpus, weights and samples here")
    return parser.parse_args()


def prepare(work: Path, steps: int) -> None:
    """A corpus; the first weights as a Hugging Face model: one step at a rate that moves nothing; the samples."""
    recipe = work / "bench.yaml"
    corpus = {"input": ["builtin:python-docs"], "tokenizer": {"train": {"vocab_size": VOCABULARY}}}
    sections = {"corpus": corpus, "pretrain": pretrain_section(), "convert": {"to": "hf"}}
    recipe.write_text(json.dumps({"name": "start", "seed": SEED} | sections), "utf-8")
    still = ["pretrain.steps=1", "pretrain.optimizer.learning_rate=1e-30"]
    easyllm(work, "run", str(recipe), *still)
    command([sys.executable, __file__, "--peer", "samples", str(work), str(steps)], work)


def pretrain_section() -> dict[str, Any]:
    return {
        "model": MODEL, "sequence_tokens": LENGTH, "device": "cpu", "ranks": 1, "steps": FEW,
        "batch": {"global_samples": SAMPLES, "micro_samples": SAMPLES},
        "optimizer": {
            "learning_rate": RATE, "min_learning_rate": 0, "warmup_steps": 0, "schedule": "constant",
            "weight_decay": DECAY, "beta2": BETA2, "clip_grad": CLIP,
        },
        "checkpoint_every_steps": 1_000_000,
    }  # fmt: skip


def easyllm(work: Path, *words: str) -> tuple[float, int]:
    return command([sys.executable, "-m", "easyllm", *words], work)


def command(words: list[str], work: Path) -> tuple[float, int]:
    return measure(words, work)


def contenders(work: Path, steps: int, engines: list[str]) -> dict[str, Callable[[], Measured]]:
    """The peers first, then ours, which the losses are compared to."""
    found: dict[str, Callable[[], Measured]] = {
        "plain PyTorch loop, transformers' Llama": lambda: net(lambda n: by_peer("plain", n, work), steps),
        "transformers.Trainer": lambda: net(lambda n: by_peer("trainer", n, work), steps),
    }
    for engine in engines:
        found[f"easyllm pretrain, engine {engine}"] = lambda engine=engine: net(lambda n: ours(engine, n, work), steps)
    return found


def net(run: Callable[[int], Measured], steps: int) -> Measured:
    few, whole = run(FEW), run(steps)
    return Measured(whole.cpu_seconds - few.cpu_seconds, whole.peak_bytes, whole.losses)


def ours(engine: str, steps: int, work: Path) -> Measured:
    shutil.rmtree(work / "runs" / "bench", ignore_errors=True)
    corpus = work / "runs" / "start" / "corpus"
    changes = ["name=bench", f"pretrain.corpus={corpus}", f"pretrain.steps={steps}", f"pretrain.engine={engine}"]
    spent, peak = easyllm(work, "pretrain", str(work / "bench.yaml"), *changes)
    with (work / "runs" / "bench" / "pretrain" / "losses.csv").open(encoding="utf-8") as rows:
        return Measured(spent, peak, [float(row["loss"]) for row in csv.DictReader(rows)])


def by_peer(name: str, steps: int, work: Path) -> Measured:
    spent, peak = command([sys.executable, __file__, "--peer", name, str(work), str(steps)], work)
    return Measured(spent, peak, json.loads((work / "losses.json").read_text("utf-8")))


def table(steps: int, repeats: int, contenders: dict[str, Callable[[], Measured]]) -> None:
    """Run everything ``repeats`` times, taking turns, and print medians; ratios are to the better peer."""
    runs: dict[str, list[Measured]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            runs[name].append(run())
    tokens = (steps - FEW) * SAMPLES * LENGTH
    speed = {name: tokens / statistics.median(run.cpu_seconds for run in found) for name, found in runs.items()}
    best = max(value for name, value in speed.items() if not name.startswith("easyllm"))
    reference = next(found[-1].losses for name, found in runs.items() if name.startswith("easyllm"))
    print(f"\n{steps} steps of {SAMPLES} x {LENGTH} tokens, median of {repeats}\n")
    print("| | tokens per CPU-second | to the better peer | peak memory, MB | last loss | losses |")
    print("|---|---:|---:|---:|---:|---|")
    for name, found in runs.items():
        peak = statistics.median(run.peak_bytes for run in found) / MEGA
        far = apart(found[-1].losses, reference)
        same = "the same" if far <= TOLERANCE else f"DIFFER by {far:.1e}"
        last = found[-1].losses[-1]
        print(f"| {name} | {speed[name]:,.0f} | {speed[name] / best:.2f} | {peak:,.0f} | {last:.5f} | {same} |")


def apart(losses: list[float], reference: list[float]) -> float:
    """Largest relative difference over the first steps."""
    return max(abs(a - b) / b for a, b in zip(losses[:COMPARED], reference[:COMPARED], strict=True))


# What runs in processes of their own: python pretrain.py --peer NAME WORK STEPS


def peer(name: str, work: str, steps: str) -> None:
    PEERS[name](Path(work), int(steps))


def dump_samples(work: Path, steps: int) -> None:
    """[steps, samples, length + 1] token ids, as engine megatron draws them in a training of so many steps."""
    import numpy

    from easyllm.core.artifact import read_manifest
    from easyllm.pretrain.blends import Blends
    from easyllm.pretrain.data import LedgerTokenizer, datasets

    corpus = work / "runs" / "start" / "corpus"
    manifest = read_manifest(corpus)
    assert manifest is not None
    ledger = manifest.records["ledger"]
    assert ledger["tokenizer_size"] == VOCABULARY, ledger["tokenizer_size"]
    tokenizer = LedgerTokenizer(VOCABULARY, ledger["eod_id"])
    blends = Blends.of_corpus(corpus, manifest.records["tokens"])
    wanted = {"train": steps * SAMPLES}
    found = datasets(blends, tokenizer, LENGTH, wanted, None, SEED, work / "samples-index")["train"]
    rows = [found[n] for n in range(steps * SAMPLES)]
    ids = numpy.stack([numpy.append(row["tokens"].numpy(), row["labels"][-1].item()) for row in rows])
    numpy.save(work / "samples.npy", ids.reshape(steps, SAMPLES, LENGTH + 1))


def first_model(work: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(work / "runs" / "start" / "convert", dtype=torch.float32)


def read_samples(work: Path) -> Any:
    import numpy
    import torch

    return torch.from_numpy(numpy.load(work / "samples.npy").astype("int64"))


def plain_loop(work: Path, steps: int) -> None:
    import torch

    model, samples, losses = first_model(work), read_samples(work), []
    model.train()
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    others = [weight for weight in model.parameters() if weight.dim() < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, BETA2), eps=1e-8, fused=True)
    for step in range(steps):
        tokens, targets = samples[step, :, :-1], samples[step, :, 1:].contiguous()
        loss = model(input_ids=tokens, labels=targets, shift_labels=targets).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
    (work / "losses.json").write_text(json.dumps(losses), "utf-8")


def trainer(work: Path, steps: int) -> None:
    from transformers import Trainer, TrainingArguments

    losses: list[float] = []

    class Recording(Trainer):
        """The loss of every step, unrounded."""

        def compute_loss(self, *given: Any, **named: Any) -> Any:
            found = super().compute_loss(*given, **named)
            losses.append((found[0] if isinstance(found, tuple) else found).item())
            return found

    rows = read_samples(work).view(-1, LENGTH + 1)
    dataset = [{"input_ids": row[:-1], "labels": row[1:], "shift_labels": row[1:]} for row in rows]
    settings = TrainingArguments(
        output_dir=str(work / "trainer"), max_steps=steps, per_device_train_batch_size=SAMPLES, learning_rate=RATE,
        lr_scheduler_type="constant", weight_decay=DECAY, adam_beta2=BETA2, max_grad_norm=CLIP, use_cpu=True,
        train_sampling_strategy="sequential", report_to="none", save_strategy="no", remove_unused_columns=False,
        dataloader_pin_memory=False, seed=SEED,
    )  # fmt: skip
    Recording(first_model(work), settings, train_dataset=dataset).train()
    (work / "losses.json").write_text(json.dumps(losses), "utf-8")


PEERS = {"samples": dump_samples, "plain": plain_loop, "trainer": trainer}

if __name__ == "__main__":
    main()
