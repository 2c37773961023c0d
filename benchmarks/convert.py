"""What conversion takes of time and memory, against loading and saving the same model with transformers.

    python benchmarks/convert.py [--layers 22] [--dtype bfloat16] [--repeats 3] [--work DIR]

A random Llama of about 1.1 billion parameters (22 layers of 2048, 32 heads, 4 key and value heads, 32,000 ids) in
safetensors of at most 2 GB. Every row is a process of its own that starts with nothing loaded; its imports are counted.
Peak memory is that of all its processes together, sampled every 20 ms: PSS, in which a page that several share is
counted once, and in it the pages that are not the cache of a file. The repeats of all rows take turns.

* copy: every file read by safetensors and written again: what no conversion can undercut.
* transformers: from_pretrained and save_pretrained, in the dtype of the files.
* to megatron, to hf: the mapping and the writing, without the proof.
* easyllm convert, both directions: the whole stage, from the recipe to the published artifact, with digests and proof.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from measuring import ENVIRONMENT, MEGA, machine, versions

SAMPLE_SECONDS = 0.02
SHARD_MB = 2000
ROWS = ("copy", "transformers", "to megatron", "to hf", "easyllm convert, to: megatron", "easyllm convert, to: hf")


def main() -> None:
    """Make the model, run every row so many times, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, help="keep model and results here")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.row:
        run_row(asked.row, asked.work)
        return
    with tempfile.TemporaryDirectory() as scratch:
        work = asked.work or Path(scratch)
        make_model(work / "model", asked.layers, asked.dtype)
        taken: dict[str, list[tuple[float, int, int]]] = {row: [] for row in ROWS}
        for _ in range(asked.repeats):
            for row in ROWS:
                taken[row].append(measure_row(row, work))
        report(taken, work / "model")


def report(taken: dict[str, list[tuple[float, int, int]]], model: Path) -> None:
    """The median of each row's repeats, and its ratio to the copy of the same round."""
    files = [path.stat().st_size for path in model.glob("*.safetensors")]
    print(f"\n{machine(versions('torch', 'transformers', 'safetensors', 'accelerate', 'megatron-core'))}")
    print(f"{sum(files) / MEGA:,.0f} MB of weights, the largest file {max(files) / MEGA:,.0f} MB\n")
    print("| | seconds | to the copy | peak memory, MB (PSS) | without file cache |")
    print("|---|---:|---:|---:|---:|")
    for row, runs in taken.items():
        ratio = statistics.median(run[0] / copy[0] for run, copy in zip(runs, taken["copy"], strict=True))
        seconds, pss, private = (statistics.median(run[i] for run in runs) for i in range(3))
        print(f"| {row} | {seconds:.1f} | {ratio:.2f} | {pss / MEGA:,.0f} | {private / MEGA:,.0f} |")


def make_model(out: Path, layers: int, dtype: str) -> None:
    if (out / "config.json").is_file():
        return
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=2048, intermediate_size=5632, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=4, vocab_size=32000, max_position_embeddings=2048,
    )  # fmt: skip
    torch.set_default_dtype(getattr(torch, dtype))
    LlamaForCausalLM(config).save_pretrained(out, max_shard_size=f"{SHARD_MB}MB")


def measure_row(row: str, work: Path) -> tuple[float, int, int]:
    """(seconds, peak PSS, peak PSS less clean pages of files) of one run in a process of its own."""
    fresh = work / "out"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    subprocess.run(["sync"], check=True)
    started = time.perf_counter()
    log = work / "log.txt"
    with log.open("w") as said:
        command = [sys.executable, __file__, "--row", row, "--work", str(work)]
        process = subprocess.Popen(command, cwd=work, env=ENVIRONMENT, stdout=said, stderr=said)
        peak = [0, 0]
        watcher = threading.Thread(target=watch, args=(process.pid, peak))
        watcher.start()
        code = process.wait()
        seconds = time.perf_counter() - started
        watcher.join()
    if code:
        raise SystemExit(f"{row}\n{log.read_text()[-3000:]}")
    return seconds, peak[0], peak[1]


def watch(pid: int, peak: list[int]) -> None:
    """Keep the largest sums over a process and its descendants until it has ended."""
    while True:
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return
            members = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        sums = [0, 0]
        for member in members:
            found = rollup(member.pid)
            sums = [sums[0] + found.get("Pss", 0), sums[1] + found.get("Pss_Anon", 0) + found.get("Pss_Shmem", 0)]
        peak[:] = [max(old, new) for old, new in zip(peak, sums, strict=True)]
        time.sleep(SAMPLE_SECONDS)


def rollup(pid: int) -> dict[str, int]:
    """Bytes by name, as Linux sums them up for a process; nothing where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}


def run_row(row: str, work: Path) -> None:
    """In the row's own process."""
    model, out = work / "model", work / "out"
    if row == "copy":
        copy(model, out)
    elif row == "transformers":
        from transformers import AutoModelForCausalLM

        AutoModelForCausalLM.from_pretrained(model, dtype="auto").save_pretrained(out, max_shard_size=f"{SHARD_MB}MB")
    elif row == "to megatron":
        to_megatron(model, work / "megatron")
    elif row == "to hf":
        to_hf(work / "megatron", out)
    else:
        whole_stage(row.rpartition(" ")[2], work)


def copy(model: Path, out: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in sorted(model.glob("*.safetensors")):
        save_file(load_file(path), out / path.name, metadata={"format": "pt"})


def to_megatron(model: Path, out: Path) -> None:
    from easyllm.convert.write_megatron import write_checkpoint
    from easyllm.core.families.config import read_architecture
    from easyllm.core.families.mapping import AsMegatron
    from easyllm.core.families.weights import HfFiles

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    a = read_architecture(model, "convert", "convert.model")
    write_checkpoint(AsMegatron(HfFiles(model), a), out, {"easyllm": {"architecture": a.as_record()}})


def to_hf(checkpoint: Path, out: Path) -> None:
    from easyllm.convert.foreign import open_checkpoint
    from easyllm.core.families.mapping import AsHf
    from easyllm.core.families.shards import write_shards

    opened = open_checkpoint(checkpoint)
    write_shards(AsHf(opened.weights, opened.architecture), out, SHARD_MB * MEGA)


def whole_stage(to: str, work: Path) -> None:
    from easyllm import cli

    there = {"to": "megatron", "model": "model"}
    back = {"to": "hf", "checkpoint": "runs/megatron/convert", "shard_mb": SHARD_MB}
    said: dict[str, Any] = {"name": to, "convert": there if to == "megatron" else back}
    recipe = work / f"{to}.yaml"
    recipe.write_text(json.dumps(said))
    shutil.rmtree(work / "runs" / to, ignore_errors=True)
    sys.argv = ["easyllm", "run", str(recipe)]
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
