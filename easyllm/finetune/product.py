"""What finetuning leaves: an adapter that stock PEFT loads, or a model that stock transformers loads."""

import json
from pathlib import Path
from typing import Any

from easyllm.core.artifact import write_whole
from easyllm.finetune.method import Tuned
from easyllm.finetune.rows import Rows


def write(out: Path, tuned: Tuned, rows: Rows) -> None:
    """The weights, their tokenizer and template, the label audit, and the rows held out."""
    _write_adapter(out, tuned.model)
    rows.tokenizer.save_pretrained(out)
    write_whole(out / "label_audit.json", json.dumps(rows.audit.as_record(), indent=2, ensure_ascii=False) + "\n")
    if rows.held_out:
        lines = [json.dumps({"messages": e.source.messages}, ensure_ascii=False) + "\n" for e in rows.held_out]
        write_whole(out / "held_out.jsonl", "".join(lines))


def _write_adapter(out: Path, model: Any) -> None:
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # peft's empty model card
    (out / "adapter_model.safetensors").chmod(0o644)  # safetensors writes for the owner alone
    config = json.loads((out / "adapter_config.json").read_text("utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # peft writes a set, in another order each time
    write_whole(out / "adapter_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
