"""What preference tuning leaves: an adapter that stock PEFT loads, or a model that stock transformers loads."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easyllm.align.encoding import Encoded
from easyllm.align.model import Start, Tuned
from easyllm.core.artifact import write_whole
from easyllm.core.tuning.saving import save_model, stored_dtype


def write(out: Path, tuned: Tuned, start: Start, tokenizer: Any, held_out: Sequence[Encoded]) -> None:
    """The weights with their tokenizer and template, and the rows held out, as evaluate reads them."""
    if tuned.kind == "model":
        save_model(tuned.model.to(stored_dtype(start.directory)), tokenizer, start.directory, out)
    else:
        _write_adapter(out, tuned.model)
        tokenizer.save_pretrained(out)
    lines = [
        json.dumps({"messages": [*row.source.prompt, *row.source.chosen]}, ensure_ascii=False) + "\n"
        for row in held_out
        if row.source.chosen
    ]
    if lines:
        write_whole(out / "held_out.jsonl", "".join(lines))


def held_out_record(held_out: Sequence[Encoded]) -> dict[str, Any]:
    """{"path", "rows"} of the rows that ``write`` leaves for evaluate: the answers that were chosen."""
    rows = sum(row.source.chosen is not None for row in held_out)
    return {"path": "held_out.jsonl" if rows else None, "rows": rows}


def _write_adapter(out: Path, model: Any) -> None:
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # peft's empty model card
    (out / "adapter_model.safetensors").chmod(0o644)  # safetensors writes for the owner alone
    config = json.loads((out / "adapter_config.json").read_text("utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # peft writes a set, in another order each time
    write_whole(out / "adapter_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
