"""What finetuning leaves: an adapter that stock PEFT loads, or a model that stock transformers loads."""

import json
from pathlib import Path

from easyllm.core.artifact import write_whole
from easyllm.core.tuning.building import Tuned
from easyllm.core.tuning.saving import save_adapter, save_model, stored_dtype
from easyllm.finetune import audit_report
from easyllm.finetune.rows import Rows


def write_audit(out: Path, rows: Rows) -> None:
    """label_audit.json and label_audit.md: what the labels stand on, to be read before training is waited for."""
    write_whole(out / "label_audit.json", json.dumps(rows.audit.as_record(), indent=2, ensure_ascii=False) + "\n")
    audit_report.write(out, rows.audit, rows.tokenizer, rows.train)


def write(out: Path, tuned: Tuned, rows: Rows) -> None:
    """The weights, their tokenizer and template, and the rows held out."""
    if tuned.kind == "model":
        save_model(tuned.model.to(stored_dtype(tuned.base)), rows.tokenizer, tuned.base, out)
    else:
        save_adapter(tuned.model, tuned.saved, out)
        rows.tokenizer.save_pretrained(out)
    if rows.held_out:
        # One row each, though a template that rewrites earlier answers makes several examples of it.
        sources = {id(example.source): example.source for example in rows.held_out}.values()
        lines = [json.dumps(source.as_row(), ensure_ascii=False) + "\n" for source in sources]
        write_whole(out / "held_out.jsonl", "".join(lines))
