"""Layout v4, read by the transformers it is for: in a child process, from a folder of packages of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import torch

from easyllm.core.chat import seal
from easyllm.core.errors import failed
from easyllm.core.parity import PROMPTS, Parity, compare
from easyllm.export.v4 import READER

TOLERANCE = 1e-4
"""fp32 on both sides: another order of sums is all that may differ."""

SPECIAL = "  <s> naïve\t中文与 English 混排 🌊\n\n{end}x"


def texts(tokenizer: Any) -> list[str]:
    """What both tokenizers must cut in the same way: two languages, white space, an emoji, a special token."""
    return [*PROMPTS, SPECIAL.format(end=tokenizer.eos_token or "")]


def read_isolated(model: Path, packages: Path, request: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """What the child made of ``model``, its logits as "logits". StageFailed EXPORT-003 with its last words."""
    scratch.mkdir(parents=True, exist_ok=True)
    asked, logits = scratch / "request.json", scratch / "logits.npz"
    asked.write_text(json.dumps({"model": str(model)} | request), "utf-8")
    environment = os.environ | {"PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    # -P: this folder's modules must not stand in front of anybody's
    command = [sys.executable, "-P", str(Path(__file__).with_name("v4_child.py")), str(asked), str(logits)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise failed("EXPORT-003", stage="export", version=READER["transformers"], reason=last_words(done.stderr))
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    with numpy.load(logits) as rows:
        found["logits"] = [torch.from_numpy(rows[f"arr_{n}"]) for n in range(len(request["ids"]))]
    return found


def last_words(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "-"


def prove_v4(
    v4: Path, packages: Path, tokenizer: Any, ids: list[list[int]], ours: list[torch.Tensor], scratch: Path
) -> Parity:
    """Logits to 1e-4, every token id and every rendered conversation the same, or StageFailed."""
    golden = (
        [entry for entry in seal(tokenizer)["golden"] if entry["ids"] is not None] if tokenizer.chat_template else []
    )
    request = {"ids": ids, "texts": texts(tokenizer), "conversations": golden}
    found = read_isolated(v4, packages, request, scratch)
    if found["versions"]["transformers"] != READER["transformers"]:
        what = found["versions"]["transformers"]
        raise failed("EXPORT-004", stage="export", found=what, wanted=READER["transformers"], path=str(packages))
    if found["texts"] != [tokenizer(text)["input_ids"] for text in request["texts"]]:
        raise failed("EXPORT-005", stage="export", reader=f"transformers {READER['transformers']}", what="text")
    if found["conversations"] != [entry["ids"] for entry in golden]:
        raise failed("EXPORT-005", stage="export", reader=f"transformers {READER['transformers']}", what="conversation")
    names = (f"v4 in transformers {READER['transformers']}", "model")
    return compare(found["logits"], ours, names, TOLERANCE).require()
