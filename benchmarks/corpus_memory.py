"""What `easyllm corpus` takes of memory and time on a large file, and what each block of its cleaning costs.

    python benchmarks/corpus_memory.py [--megabytes 2000] [--clean plain filters exact near] [--workers 2] [--work DIR]

The text is that of corpus.py in one JSONL file, and in it, once in thirty words, a word that occurs nowhere else: real
text is as rich, and learning a tokenizer holds every different word. Every row of the table is a whole `easyllm corpus`
in processes of its own, from the file to the published artifact, with a tokenizer of 8,000 learned from it (200 MB of
its text at the most, which is the default). Peak memory is that of all processes together, sampled every 0.2 s: PSS, in
which a page that several share is counted once, and RSS, in which each counts it.

* plain: no cleaning.
* length, language, repetition, exact, near: that block alone.
* filters: length, language and repetition.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from corpus import ENVIRONMENT, MEGA, machine, write_text

LENGTH, LANGUAGE = {"min_characters": 200}, {"keep": ["en", "zh"]}
CLEAN: dict[str, dict[str, Any]] = {
    "plain": {},
    "length": {"length": LENGTH},
    "language": {"language": LANGUAGE},
    "repetition": {"repetition": {}},
    "filters": {"length": LENGTH, "language": LANGUAGE, "repetition": {}},
    "exact": {"exact_duplicates": True},
    "near": {"near_duplicates": {}},
}
SAMPLE_SECONDS = 0.2


@dataclass
class Taken:
    """What one run took."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    pss_bytes: int = 0
    rss_bytes: int = 0
    documents: int = 0
    """Left to be tokenised."""


def main() -> None:
    """Make the text, run what is asked, print a line of the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--clean", nargs="+", choices=CLEAN, default=["plain"])
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, help="keep text and tokens here")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = asked.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        text = work / f"text-{asked.megabytes}.jsonl"
        if not text.exists():
            write_text(work / "plain.jsonl", asked.megabytes * MEGA, [])
            add_rare_words(work / "plain.jsonl", text)
        print(f"\n{machine(None)}\n{text.stat().st_size / MEGA:,.0f} MB of JSONL, {asked.workers} workers\n")
        print("| | seconds | CPU seconds | peak memory, MB (PSS) | (RSS) | documents left |")
        print("|---|---:|---:|---:|---:|---:|")
        for name in asked.clean:
            taken = run(name, text, asked.workers, work)
            print(
                f"| {name} | {taken.seconds:.0f} | {taken.cpu_seconds:.0f} | {taken.pss_bytes / MEGA:,.0f} "
                f"| {taken.rss_bytes / MEGA:,.0f} | {taken.documents:,} |",
                flush=True,
            )


def add_rare_words(plain: Path, target: Path) -> None:
    """Copy the rows; words made of random letters are put in."""
    dice = random.Random(11)
    with plain.open(encoding="utf-8") as rows, target.open("w", encoding="utf-8") as file:
        for row in map(json.loads, rows):
            words = row["text"].split(" ")
            for place in range(dice.randrange(30), len(words), 30):
                words[place] += " " + "".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(6, 10)))
            file.write(json.dumps({"text": " ".join(words)}, ensure_ascii=False) + "\n")
    plain.unlink()


def run(name: str, text: Path, workers: int, work: Path) -> Taken:
    """`easyllm corpus` with the blocks of ``name``."""
    shutil.rmtree(work / "runs", ignore_errors=True)
    section = {"input": [str(text)], "workers": workers, **({"clean": CLEAN[name]} if CLEAN[name] else {})}
    recipe = work / "bench.yaml"
    recipe.write_text(json.dumps({"name": "bench", "corpus": section}))
    log, taken, begin = work / "log.txt", Taken(), time.monotonic()
    before = os.times()
    with log.open("w") as told:
        command = [sys.executable, "-m", "easyllm", "corpus", str(recipe)]
        process = psutil.Popen(command, cwd=work, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=told)
        while process.poll() is None:
            pss, rss = memory_of(family(process))
            taken.pss_bytes, taken.rss_bytes = max(taken.pss_bytes, pss), max(taken.rss_bytes, rss)
            time.sleep(SAMPLE_SECONDS)
    after = os.times()
    taken.seconds = time.monotonic() - begin
    taken.cpu_seconds = sum(after[2:4]) - sum(before[2:4])  # of all that were waited for, theirs included
    if process.returncode:
        raise SystemExit(log.read_text())
    manifest = json.loads((work / "runs" / "bench" / "corpus" / "manifest.json").read_text())
    taken.documents = manifest["metrics"]["documents"]
    return taken


def family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def memory_of(processes: list[psutil.Process]) -> tuple[int, int]:
    """(PSS, RSS) of all of them together."""
    pss = rss = 0
    for process in processes:
        try:
            found = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        pss, rss = pss + found.pss, rss + found.rss
    return pss, rss


if __name__ == "__main__":
    main()
