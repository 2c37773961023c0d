"""Does a GGUF file say in llama.cpp what the model says in transformers?

Measured as llama.cpp measures its own quantisations: Kullback-Leibler divergence of the next token's distribution, and
the share of positions whose most likely token is the same.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
import torch

from easyllm.core.chat import GOLDEN, end_token_ids, render
from easyllm.core.errors import failed
from easyllm.export.config import Gguf
from easyllm.export.isolated import last_words, texts

POSITIONS = 8
"""Of every prompt, spread over it."""
GREEDY_TOKENS = 24

BOUNDS: dict[Gguf, tuple[float, float]] = {"f16": (5e-4, 0.97), "q8_0": (0.02, 0.92), "q4_k_m": (0.25, 0.8)}
"""Largest mean divergence in nats, and smallest share of equal most likely tokens.

About twice what a real 135M model with a LoRA merged into it showed over 96 positions, and more for f16, where little
was seen at all: 8e-5 and 1.00, 0.009 and 0.96, 0.14 and 0.90. Small models lose most by few bits, so larger ones stand
well within; a file that was made wrongly is nats away. Of a random llama of two layers it was 2e-5, 6e-4 and 7e-3 nats.
"""


@dataclass(frozen=True)
class GgufParity:
    """One file beside the model it was made from."""

    file: str
    positions: int
    mean_divergence: float
    """Nats of the next token's distribution, transformers to llama.cpp."""
    largest_divergence: float
    top1_agreement: float
    divergence_bound: float
    top1_bound: float
    greedy_tokens: int
    """Tokens of the greedy answer of the model in transformers."""
    greedy_same: int
    """Of these, from the first on, those that llama.cpp says too."""

    @property
    def holds(self) -> bool:
        return self.mean_divergence <= self.divergence_bound and self.top1_agreement >= self.top1_bound

    def as_record(self) -> dict[str, Any]:
        return asdict(self) | {"holds": self.holds}


@dataclass(frozen=True)
class Reference:
    """What the model says in transformers, kept so that it is asked once for all files."""

    ids: list[list[int]]
    positions: list[list[int]]
    log_probabilities: numpy.ndarray[Any, Any]
    """A row a position."""
    greedy: list[int]
    """The prompt of the greedy answer."""
    said: list[int]


def reference(model: Any, tokenizer: Any, ids: list[list[int]], ours: list[torch.Tensor], ends: list[int]) -> Reference:
    """``ours``: the model's logits for ``ids``."""
    positions = [sorted({round(n) for n in numpy.linspace(0, len(row) - 1, POSITIONS)}) for row in ids]
    rows = [torch.log_softmax(logits[at].float(), -1) for logits, at in zip(ours, positions, strict=True)]
    greedy = ids[0]
    if tokenizer.chat_template:
        greedy = render(tokenizer, [dict(message) for message in GOLDEN[0]], True)
    with torch.inference_mode():
        said = model.generate(
            torch.tensor([greedy]), max_new_tokens=GREEDY_TOKENS, do_sample=False, eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
        )  # fmt: skip
    return Reference(ids, positions, torch.cat(rows).numpy(), greedy, said[0, len(greedy) :].tolist())


def prove_gguf(path: Path, kind: Gguf, told: Reference, tokenizer: Any, scratch: Path) -> GgufParity:
    """Token ids, template and distributions, or StageFailed EXPORT-005, -006 or -012."""
    conversations = _conversations(tokenizer)
    asked = texts(tokenizer)
    request = {
        "gguf": str(path), "threads": torch.get_num_threads(), "vocabulary": told.log_probabilities.shape[1],
        "ids": told.ids, "positions": told.positions, "texts": asked,
        "conversations": [said for said, _ in conversations], "greedy": told.greedy, "greedy_tokens": GREEDY_TOKENS,
    }  # fmt: skip
    found, theirs = _ask(request, scratch)
    if found["texts"] != [tokenizer(text, add_special_tokens=False)["input_ids"] for text in asked]:
        raise failed("EXPORT-005", stage="export", reader=f"llama.cpp ({path.name})", what="text")
    if found["conversations"] != [prompt for _, prompt in conversations]:
        raise failed("EXPORT-005", stage="export", reader=f"llama.cpp ({path.name})", what="conversation")
    parity = _measure(path.name, kind, told, theirs, found["greedy"])
    if not parity.holds:
        raise failed("EXPORT-006", stage="export", **asdict(parity))
    return parity


def _conversations(tokenizer: Any) -> list[tuple[list[dict[str, str]], str]]:
    """The golden conversations that end with a question, and their prompts; llama.cpp adds the first token itself."""
    if not tokenizer.chat_template:
        return []
    wanted = [[dict(message) for message in said] for said in GOLDEN]
    made = [(said, tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)) for said in wanted]
    return [(said, text.removeprefix(tokenizer.bos_token) if _adds_bos(tokenizer) else text) for said, text in made]


def _adds_bos(tokenizer: Any) -> bool:
    return tokenizer.bos_token is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id


def _ask(request: dict[str, Any], scratch: Path) -> tuple[dict[str, Any], Any]:
    scratch.mkdir(parents=True, exist_ok=True)
    asked, out = scratch / "request.json", scratch / "log_probabilities.npz"
    asked.write_text(json.dumps(request), "utf-8")
    command = [sys.executable, "-P", str(Path(__file__).with_name("llama_child.py")), str(asked), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    if not answers:
        raise failed("EXPORT-012", stage="export", file=Path(request["gguf"]).name, reason=last_words(done.stderr))
    with numpy.load(out) as rows:
        return json.loads(answers[0].removeprefix("ANSWER ")), rows["arr_0"]


def _measure(name: str, kind: Gguf, told: Reference, theirs: Any, said: list[int]) -> GgufParity:
    ours = told.log_probabilities
    divergence = (numpy.exp(ours) * (ours - numpy.maximum(theirs, -1e4))).sum(-1)
    same = float((ours.argmax(-1) == theirs.argmax(-1)).mean())
    equal = [a == b for a, b in zip(told.said, said, strict=False)]
    kept = equal.index(False) if False in equal else len(equal)
    mean, largest = float(divergence.mean()), float(divergence.max())
    return GgufParity(name, len(ours), mean, largest, same, *BOUNDS[kind], len(told.said), kept)


def ends_of(tokenizer: Any, generation: dict[str, Any]) -> tuple[list[int], dict[str, int | None]]:
    """Every id that ends an answer, and the two that a GGUF has a place for."""
    ends = end_token_ids(tokenizer, generation)
    return ends, {"eos": ends[0] if ends else None, "eot": ends[-1] if len(ends) > 1 else None}
