"""An adapter and its base become one model: proven equal to the pair, and unequal to the base."""

import gc
import json
from pathlib import Path
from typing import Any

import torch

from easyllm.core.artifact import Decision, write_whole
from easyllm.core.chat import load_tokenizer, seal
from easyllm.core.errors import failed
from easyllm.core.messages import say
from easyllm.core.models import load_model, local_model, quiet_libraries, recorded_base
from easyllm.core.parity import Parity, compare
from easyllm.core.stage import Job, Result
from easyllm.core.tuning.adapted import load_adapted
from easyllm.core.tuning.saving import save_model, stored_dtype
from easyllm.merge.config import MergeConfig
from easyllm.merge.probes import logits, prompts

TOLERANCE = 5e-3
"""Merging reorders sums: fp32 logits of a 135M model moved by 4e-4 here, where the adapter had moved them by 36."""
TOLERANCE_INT8 = 0.05
"""Of the largest logit, to the model with its base in 8 bits: that one rounds activations too, the merged one none."""


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
    with_adapter = _trained(adapter.path, records, directory, ids)
    # Into the 8 or 4 bits themselves nothing is merged: that would round the sum once more, by 2 to 20 %.
    model = load_adapted(adapter.path, records, directory, torch.float32, dequantised=True)
    with model.disable_adapter():
        before = logits(model, ids)
    model = model.merge_and_unload()
    merged = logits(model, ids)
    require_change(before, merged, base.ref)
    parity = _parity(merged, with_adapter, records).require()

    dtype = stored_dtype(directory)
    _round(model, dtype)
    kept = logits(model, ids)
    ends = save_model(model.to(dtype), tokenizer, directory, job.out)
    del model
    gc.collect()
    files = compare(logits(load_model(job.out, torch.float32), ids), kept, ("files", "merged"), TOLERANCE).require()
    _require_seal(job.out, records["template"]["hash"])
    return _result(job, records, parity, files, compare(merged, before, ("merged", "base"), TOLERANCE), dtype, ends)


def _trained(adapter: Path, records: dict[str, Any], directory: Path, ids: list[list[int]]) -> list[torch.Tensor]:
    """Logits of the model as it was trained, its base quantised if it was; nothing of it stays in memory."""
    model = load_adapted(adapter, records, directory, torch.float32)
    found = logits(model, ids)
    del model
    gc.collect()
    return found


def _parity(merged: list[torch.Tensor], with_adapter: list[torch.Tensor], records: dict[str, Any]) -> Parity:
    names = ("merged", "base with adapter")
    if (records.get("quantisation") or {}).get("bits") == 8:
        return compare(merged, with_adapter, names, TOLERANCE_INT8, relative=True, top1_required=False)
    return compare(merged, with_adapter, names, TOLERANCE)


def require_change(before: list[torch.Tensor], merged: list[torch.Tensor], base: str) -> None:
    """StageFailed when the adapter changes nothing: such a merge would pass its parity and be worthless."""
    if all(torch.equal(a, b) for a, b in zip(before, merged, strict=True)):
        raise failed("MERGE-001", stage="merge", base=base)


def _round(model: Any, dtype: torch.dtype) -> None:
    """Round the weights to what ``dtype`` holds; they stay fp32, and so do the position tables beside them."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()


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
