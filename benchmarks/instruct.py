"""Near duplicates among instructions: CPU-seconds of our filter beside its peers, and whether they decide the same.

    python benchmarks/instruct.py [--compared 600] [--pairs 20000] [--sizes 5000 50000] [--languages English Chinese]

The filter is the greedy one of Self-Instruct: an instruction stays if its ROUGE-L (F) to every one that stayed before
it is at most 0.7. Texts are real, and others are those with words replaced, left out and put in, at random:

* English: first lines of the docstrings of Python's standard library, of four words and more;
* Chinese: sentences of the seed tasks that ship (builtin:zh), of six characters and more.

Peers are rouge_score, where it can be imported, and Alpaca's way: the textbook's table of longest common
subsequences in Python, over words that were split once. Neither can be run over all pairs in reasonable time: they are
timed on ``--pairs`` pairs drawn at random and extrapolated to the pairs that the filter compares. ``--compared`` texts
go through the whole filter with each peer, and those decisions are compared with ours one by one. A pair of exactly 7
in 10 is not above 0.7; peers that multiply and divide floats get 0.7000000000000001 for some of those, which is rounded
off here and counted.

Past ``minhash_above`` instructions ours takes candidates from MinHash; here that is lowered to 0, and what it then
keeps is compared with the filter over all pairs.
"""

import argparse
import ast
import json
import random
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from measuring import machine, versions

from easyllm.instruct.clean.similar import Similar
from easyllm.instruct.clean.tokens import tokens_of

THRESHOLD = 0.7
NEVER = 1 << 60

Peer = tuple[Callable[[str], object], Callable[..., float]]
"""(What is done once for each text, the score of two of those.)"""


def main() -> None:
    asked = arguments()
    rouge = ["rouge-score"] if find_spec("rouge_score") else []
    print(machine(versions("rapidfuzz", "rensa", "numpy", *rouge)))
    for name in asked.languages:
        real = TEXTS[name]()
        for size in asked.sizes:
            table(name, real, with_mutants(real, size), asked.pairs, asked.compared)
            sys.stdout.flush()
    teacher = Path(__file__).with_name("instruct_teacher.py")
    if teacher.is_file():
        subprocess.run([sys.executable, teacher], check=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compared", type=int, default=600, help="texts that peers filter whole")
    parser.add_argument("--pairs", type=int, default=20_000, help="pairs that peers are timed on")
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 50_000], help="instructions")
    parser.add_argument("--languages", nargs="+", choices=list(TEXTS), default=list(TEXTS))
    return parser.parse_args()


def docstring_lines() -> list[str]:
    """Each once, in the order of the files."""
    found: dict[str, None] = {}
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if {"site-packages", "test", "tests", "lib2to3"} & set(path.relative_to(root).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                line = text.splitlines()[0]
                if len(tokens_of(line)) >= 4:
                    found[line] = None
    return list(found)


def seed_sentences() -> list[str]:
    """Each once, in the order of the tasks."""
    from easyllm.recipes.builtin import materialise

    with tempfile.TemporaryDirectory() as cache:
        lines = materialise("seeds-zh", Path(cache), "instruct", "instruct.seeds").read_text("utf-8").splitlines()
    found: dict[str, None] = {}
    for seed in map(json.loads, lines):
        parts = [seed["instruction"], *(one[name] for one in seed["instances"] for name in ("input", "output"))]
        for text in re.split(r"[。！？；\n]", "\n".join(parts)):
            if len(re.findall(r"[\u4e00-\u9fff]", text)) >= 6:
                found[text.strip()] = None
    return list(found)


TEXTS = {"English": docstring_lines, "Chinese": seed_sentences}


def with_mutants(real: Sequence[str], size: int) -> list[str]:
    """``size`` texts: the real ones, 7 in 10 of them at most, and changed ones; the same for the same size."""
    dice = random.Random(size)
    chosen = dice.sample(list(real), min(len(real), size * 7 // 10))
    vocabulary = [token for text in real for token in pieces(text)]
    texts = chosen + [mutant(dice.choice(chosen), vocabulary, dice) for _ in range(size - len(chosen))]
    dice.shuffle(texts)
    return texts


def pieces(text: str) -> list[str]:
    return list(text) if re.search(r"[\u4e00-\u9fff]", text) else text.split()


def mutant(text: str, vocabulary: Sequence[str], dice: random.Random) -> str:
    """From one word changed to nearly all of them."""
    words = pieces(text)
    for _ in range(dice.randint(1, len(words))):
        place, what = dice.randrange(len(words)), dice.random()
        if what < 0.5:
            words[place] = dice.choice(vocabulary)
        elif what < 0.75:
            words.insert(place, dice.choice(vocabulary))
        elif len(words) > 4:
            del words[place]
    return ("" if pieces(text) == list(text) else " ").join(words)


def ours(texts: Sequence[str], minhash_above: int) -> tuple[float, list[bool], int]:
    """(CPU-seconds, whether each is dropped, pairs that had to be compared)."""
    known, dropped, pairs = Similar(minhash_above), [], 0
    began = time.process_time()
    for text in texts:
        pairs += len(known)
        found = known.nearest(text)
        dropped.append(found is not None and found.rouge_l > THRESHOLD)
        if not dropped[-1]:
            known.keep(text)
    return time.process_time() - began, dropped, pairs


def alpaca(first: Sequence[str], second: Sequence[str]) -> float:
    """ROUGE-L (F) of two lists of words, as rouge_score computes it in Python."""
    before = [0] * (len(second) + 1)
    for word in first:
        now = [0]
        for place, other in enumerate(second):
            now.append(before[place] + 1 if word == other else max(now[place], before[place + 1]))
        before = now
    if not before[-1]:
        return 0.0
    precision, recall = before[-1] / len(first), before[-1] / len(second)
    return 2 * precision * recall / (precision + recall)


def peers() -> dict[str, Peer]:
    found: dict[str, Peer] = {"Alpaca's way": (tokens_of, alpaca)}
    if find_spec("rouge_score"):
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"], use_stemmer=False)
        found["rouge_score"] = (str, lambda first, second: scorer.score(first, second)["rougeL"].fmeasure)
    return found


def table(name: str, real: Sequence[str], texts: Sequence[str], sampled: int, compared: int) -> None:
    seconds, dropped, pairs = ours(texts, NEVER)
    print(
        f"\n{name}, {len(texts):,} instructions of {len(real):,} real ones and their mutants: {sum(dropped):,} dropped,"
    )
    print(f"{pairs:,} pairs compared\n")
    print("| | CPU-seconds | to ours | decisions |")
    print("|---|---:|---:|---|")
    print(f"| easyllm, all pairs | {seconds:.2f} | 1 | |")
    least, approximate, _ = ours(texts, 0)
    both = sum(mine and all_pairs for mine, all_pairs in zip(approximate, dropped, strict=True))
    other = sum(mine != all_pairs for mine, all_pairs in zip(approximate, dropped, strict=True))
    print(f"| easyllm, MinHash from the first | {least:.2f} | {least / seconds:.2f} "
          f"| {both / sum(dropped):.2%} of the drops found; {other:,} of {len(texts):,} differ |")  # fmt: skip
    for name, peer in peers().items():
        whole = extrapolated(texts, peer, sampled, pairs)
        print(f"| {name}, extrapolated from {sampled:,} pairs | {whole:,.0f} | {whole / seconds:,.0f} "
              f"| {agreement(texts[:compared], dropped[:compared], peer)} |")  # fmt: skip


def extrapolated(texts: Sequence[str], peer: Peer, sampled: int, pairs: int) -> float:
    """CPU-seconds for ``pairs`` pairs."""
    prepare, score = peer
    dice = random.Random(1)
    ready = [prepare(text) for text in texts]
    drawn = [(dice.choice(ready), dice.choice(ready)) for _ in range(sampled)]
    began = time.process_time()
    for first, second in drawn:
        score(first, second)
    return (time.process_time() - began) / sampled * pairs


def agreement(texts: Sequence[str], dropped: Sequence[bool], peer: Peer) -> str:
    """How many of the first texts a peer decides on as we do not, and how many by the last bit of its float."""
    prepare, score = peer
    kept: list[object] = []
    differing = theirs = ties = 0
    for text, ours_drops in zip(texts, dropped, strict=True):
        ready = prepare(text)
        most = max((score(ready, other) for other in kept), default=0.0)
        drops = round(most, 9) > THRESHOLD
        ties += most > THRESHOLD and not drops
        theirs += drops
        differing += drops != ours_drops
        if not drops:
            kept.append(ready)
    told = f"{differing} of the first {len(texts):,} differ ({sum(dropped)} dropped by ours, {theirs} by it)"
    return told + (f"; {ties} of exactly {THRESHOLD} by its float's last bit" if ties else "")


if __name__ == "__main__":
    main()
