"""An adapter and its base become one model: proven equal to the pair, and unequal to the base."""

import gc
import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig

from easyllm.core.artifact import Decision, write_whole
from easyllm.core.chat import end_token_ids, load_tokenizer, seal
from easyllm.core.errors import failed
from easyllm.core.messages import say
from easyllm.core.models import load_model, local_model, quiet_libraries, recorded_base
from easyllm.core.parity import Parity, compare
from easyllm.core.stage import Job, Result
from easyllm.merge.config import MergeConfig
from easyllm.merge.probes import logits, prompts

TOLERANCE = 5e-3
"""Merging reorders sums: fp32 logits of a 135M model moved by 4e-4 here, where the adapter had moved them by 36."""


def run(job: Job[MergeConfig]) -> Result:
    """A model directory that stock transformers loads, with tokenizer, template, generation config and parity."""
    quiet_libraries()
    adapter = job.inputs["adapter"]
    assert adapter.path is not None  # the pipeline runs a stage only when its inputs are there
    assert adapter.manifest is not None
    records = adapter.manifest.records
    base = recorded_base(records["base"], job.cache_dir, job.stage, "merge.adapter")
    directory = local_model(base, job.cache_dir, job.stage)
    tokenizer = load_tokenizer(adapter.path)

    ids = prompts(tokenizer)
    model = PeftModel.from_pretrained(load_model(directory, torch.float32), str(adapter.path)).eval()
    with model.disable_adapter():
        before = logits(model, ids)
    with_adapter = logits(model, ids)
    model = model.merge_and_unload()
    merged = logits(model, ids)
    require_change(before, merged, base.ref)
    parity = compare(merged, with_adapter, ("merged", "base with adapter"), TOLERANCE).require()

    dtype = _stored_dtype(directory)
    _round(model, dtype)
    kept = logits(model, ids)
    ends = _save(model.to(dtype), tokenizer, directory, job.out)
    del model
    gc.collect()
    files = compare(logits(load_model(job.out, torch.float32), ids), kept, ("files", "merged"), TOLERANCE).require()
    _require_seal(job.out, records["template"]["hash"])
    return _result(job, records, parity, files, compare(merged, before, ("merged", "base"), TOLERANCE), dtype, ends)


def require_change(before: list[torch.Tensor], merged: list[torch.Tensor], base: str) -> None:
    """StageFailed when the adapter changes nothing: such a merge would pass its parity and be worthless."""
    if all(torch.equal(a, b) for a, b in zip(before, merged, strict=True)):
        raise failed("MERGE-001", stage="merge", base=base)


def _stored_dtype(directory: Path) -> torch.dtype:
    """The precision in which the base's config says its weights are kept."""
    config = json.loads((directory / "config.json").read_text("utf-8"))
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    found: torch.dtype = getattr(torch, name)
    return found


def _round(model: Any, dtype: torch.dtype) -> None:
    """Round the weights to what ``dtype`` holds; they stay fp32, and so do the position tables beside them."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()


def _save(model: Any, tokenizer: Any, base: Path, out: Path) -> list[int]:
    """Weights, config, tokenizer, template and generation config; gives the ids that end an answer."""
    model.config.use_cache = True
    model.generation_config = GenerationConfig()  # written below
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    _template_inside(out, tokenizer.chat_template)
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes for the owner alone
    return _write_generation_config(base, out, tokenizer)


def _write_generation_config(base: Path, out: Path, tokenizer: Any) -> list[int]:
    """The base's file as it is, with every id that ends an answer; transformers would refuse an odd one to save."""
    path = base / "generation_config.json"
    values: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    ends = end_token_ids(tokenizer, values)
    values["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    if values.get("pad_token_id") is None:
        values["pad_token_id"] = ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    write_whole(out / "generation_config.json", json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    return ends


def _template_inside(out: Path, template: str) -> None:
    """huggingface/text-generation-inference#3247: that server reads tokenizer_config.json, never the .jinja file."""
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8")) | {"chat_template": template}
    write_whole(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _require_seal(out: Path, wanted: str) -> None:
    found = seal(load_tokenizer(out))["hash"]
    if found != wanted:
        raise failed("MERGE-002", stage="merge", found=found[:12], wanted=wanted[:12])


def _result(
    job: Job[MergeConfig], records: dict[str, Any], parity: Parity, files: Parity, change: Parity,
    dtype: torch.dtype, ends: list[int],
) -> Result:  # fmt: skip
    report = {"adapter": parity.as_record(), "files": files.as_record()}
    write_whole(job.out / "parity.json", json.dumps(report, indent=2) + "\n")
    adapter = job.inputs["adapter"]
    lineage = {"adapter": str(adapter.path), "held_out": records["held_out"]["path"]}
    return Result(
        kind="model",
        metrics={
            "parity_max_logit_difference": parity.max_logit_difference,
            "parity_top1_agreement": parity.top1_agreement,
            "files_max_logit_difference": files.max_logit_difference,
            "change_max_logit_difference": change.max_logit_difference,
            "change_top1_agreement": change.top1_agreement,
        },
        decisions=[
            Decision("dtype", str(dtype).removeprefix("torch."), say("why_base_dtype")),
            Decision("end_token_ids", ends, say("why_end_tokens")),
        ],
        records={"base": records["base"], "template": records["template"], "parity": report, "lineage": lineage},
    )
