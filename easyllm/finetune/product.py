"""What finetuning leaves: an adapter that stock PEFT loads, or a model that stock transformers loads."""

import json
from pathlib import Path
from typing import Any

from easyllm.core.artifact import write_whole
from easyllm.core.tuning.saving import save_model, stored_dtype
from easyllm.finetune.method import Tuned
from easyllm.finetune.rows import Rows


def write(out: Path, tuned: Tuned, rows: Rows) -> None:
    """The weights, their tokenizer and template, the label audit, and the rows held out."""
    if tuned.kind == "model":
        save_model(tuned.model.to(stored_dtype(tuned.base)), rows.tokenizer, tuned.base, out)
    else:
        _write_adapter(out, tuned.model, tuned.saved)
        rows.tokenizer.save_pretrained(out)
    write_whole(out / "label_audit.json", json.dumps(rows.audit.as_record(), indent=2, ensure_ascii=False) + "\n")
    if rows.held_out:
        lines = [json.dumps({"messages": e.source.messages}, ensure_ascii=False) + "\n" for e in rows.held_out]
        write_whole(out / "held_out.jsonl", "".join(lines))


def _write_adapter(out: Path, model: Any, saved: list[str]) -> None:
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # peft's empty model card
    (out / "adapter_model.safetensors").chmod(0o644)  # safetensors writes for the owner alone
    config = json.loads((out / "adapter_config.json").read_text("utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # peft writes a set, in another order each time
    # peft leaves a tied head out of the file, and then ties nothing when it loads embeddings called wte (GPT-2).
    config["modules_to_save"] = saved or None
    write_whole(out / "adapter_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
