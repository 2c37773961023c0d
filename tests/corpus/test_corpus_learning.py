"""A tokenizer is learned from as much text as fits a memory that is known before, whatever the language."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import regex

from easyllm.corpus import learning
from easyllm.corpus.config import TrainTokenizer
from easyllm.corpus.learning import learning_bytes
from easyllm.corpus.patterns import GPT2
from easyllm.corpus.plan import plan

HAN = [chr(0x4E00 + n) for n in range(2_000)]
LETTERS = str.maketrans("0123456789", "ghijklmnop")
WEIGHTS = [1 / (n + 10) for n in range(2_000)]


def clauses(dice: random.Random) -> str:
    return "".join("".join(dice.choices(HAN, WEIGHTS, k=dice.randint(4, 16))) + "，" for _ in range(20))


def sentences(dice: random.Random) -> str:
    """Words of a long-tailed vocabulary, some as frequent as "the", others seen once."""
    return " ".join(f"{min(int(dice.paretovariate(0.5)), 10**6):x}".translate(LETTERS) for _ in range(100))


@pytest.mark.parametrize(("speak", "documents"), [(clauses, 200), (sentences, 2_500)])
def test_text_is_taken_until_its_different_words_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speak: Callable[[random.Random], str], documents: int
) -> None:
    monkeypatch.setattr(learning, "MEMORY_BYTES", 2_000_000)  # 20,000 bytes of words
    monkeypatch.setattr(learning, "SAMPLE_BYTES", 60_000)
    dice = random.Random(5)
    texts = [speak(dice) for _ in range(documents)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    size = sum(len(text.encode()) for text in texts)
    most, why = learning_bytes(TrainTokenizer(), [path], "text", size)
    assert most < size
    assert "different words fit 2 MB of memory" in why
    taken, seen = 0, set()
    for text in texts:
        taken += len(text.encode())
        seen.update(regex.findall(GPT2, text))
        if taken >= most:
            break
    words = sum(len(word.encode()) for word in seen)
    assert 0.7 < words / 20_000 < 1.4
    assert learning_bytes(TrainTokenizer(text_bytes=size), [path], "text", size)[0] == size  # asked for is obeyed


def test_plan_says_how_much_and_why(tmp_path: Path, corpus_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(5)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": clauses(dice)}) + "\n" for _ in range(300)))
    section = {"input": ["a.jsonl"], "tokenizer": {"train": {"vocab_size": 300}}}

    def told() -> tuple[Any, str]:
        return next(
            (d.value, d.why) for d in plan(corpus_job(**section)).decisions if d.what == "tokenizer learns from"
        )

    assert told() == ("all of the text", "more than 200,000,000 bytes teach a tokenizer little")
    monkeypatch.setattr(learning, "MEMORY_BYTES", 3_000_000)
    value, why = told()
    assert value.startswith("about ")
    assert "corpus.tokenizer.train.text_bytes asks for more" in why


LEARN = """
import random, sys
from pathlib import Path
import psutil
from easyllm.corpus import tokenizer
from easyllm.corpus.config import TrainTokenizer

dice, begin = random.Random(1), psutil.Process().memory_info().rss
texts = ("".join(chr(dice.randint(0x4E00, 0x5600)) for _ in range(20)) + "," for _ in range(50_000))
tokenizer.train(TrainTokenizer(vocab_size=300), texts, Path(sys.argv[1]))
print(psutil.Process().memory_info().rss - begin)
"""


def test_what_learning_held_is_given_back_before_the_workers_start(tmp_path: Path) -> None:
    """Without that 212 MB stayed with this process when it was written."""
    done = subprocess.run([sys.executable, "-c", LEARN, tmp_path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60_000_000
