"""What preference tuning leaves: an adapter that stock PEFT loads, or a model that stock transformers loads."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easyllm.align.encoding import Encoded
from easyllm.core.artifact import write_whole
from easyllm.core.tuning.building import Tuned
from easyllm.core.tuning.saving import save_adapter, save_model, stored_dtype


def write(out: Path, tuned: Tuned, tokenizer: Any, held_out: Sequence[Encoded]) -> None:
    """The weights with their tokenizer and template, and the rows held out, as evaluate reads them."""
    if tuned.kind == "model":
        save_model(tuned.model.to(stored_dtype(tuned.base)), tokenizer, tuned.base, out)
    else:
        save_adapter(tuned.model, tuned.saved, out)
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
