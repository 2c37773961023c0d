"""What preference tuning leaves: an adapter that stock PEFT loads, or a model that stock transformers loads."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easyllm.align.encoding import Encoded
from easyllm.align.model import Start
from easyllm.align.preferences import Preference
from easyllm.core.artifact import write_whole
from easyllm.core.conversations import Message
from easyllm.core.tuning.building import Tuned
from easyllm.core.tuning.saving import save_adapter, save_model, stored_dtype

HELD_OUT = "held_out.jsonl"


def write(out: Path, tuned: Tuned, tokenizer: Any, rows: Sequence[Encoded], start: Start) -> dict[str, Any]:
    """The weights with their tokenizer and template, and held-out rows as evaluate reads them.

    Gives the manifest's "held_out". The answers that were chosen are held out; where no pair is, the rows that the
    adapter trained on before had held out stay so.
    """
    if tuned.kind == "model":
        save_model(tuned.model.to(stored_dtype(tuned.base)), tokenizer, tuned.base, out)
    else:
        save_adapter(tuned.model, tuned.saved, out)
        tokenizer.save_pretrained(out)
    said = [_as_row(row.source, row.source.chosen) for row in rows if row.source.chosen]
    if said:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in said]
        write_whole(out / HELD_OUT, "".join(lines))
        return {"path": HELD_OUT, "rows": len(said)}
    before = start.records.get("held_out") or {"path": None, "rows": 0}
    if start.adapter and before["path"]:
        write_whole(out / HELD_OUT, (start.adapter / before["path"]).read_text("utf-8"))
        return before | {"path": HELD_OUT}
    return {"path": None, "rows": 0}


def _as_row(row: Preference, answer: Sequence[Message]) -> dict[str, Any]:
    messages = [*row.prompt, *answer]
    return {"messages": messages, "tools": list(row.tools)} if row.tools else {"messages": messages}
