"""Adapters and their base become one model: proven equal to the pair, and unequal to the base."""

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from easyllm.core.artifact import Decision, write_whole
from easyllm.core.chat import load_tokenizer, seal
from easyllm.core.errors import UserError, failed
from easyllm.core.families.shards import write_shards
from easyllm.core.families.weights import HfFiles, equal_files
from easyllm.core.memory import give_memory_back
from easyllm.core.messages import say
from easyllm.core.models import load_model, local_model, quiet_libraries, recorded_base
from easyllm.core.parity import compare
from easyllm.core.stage import Job, Result
from easyllm.core.tuning.saving import save_beside
from easyllm.core.tuning.targets import meta_model
from easyllm.merge.checks import check
from easyllm.merge.config import MergeConfig
from easyllm.merge.made_of import made_of
from easyllm.merge.proof import Proof, Said, ask, ask_pair, computes_exactly, require_change
from easyllm.merge.sources import require_published, sources
from easyllm.merge.weights import Merged, changes_nothing

NOISES = 2
"""A change that is no larger than so many times what the order of sums moves is none: an adapter and its opposite."""
EXACT = ".exact"
"""The merged weights in fp32, beside those in the base's precision, until both have been compared."""


def run(job: Job[MergeConfig]) -> Result:
    """A model directory that stock transformers loads, with tokenizer, template, generation config and parity."""
    quiet_libraries()
    problems = check(job)
    if problems:
        raise UserError(*problems)
    found = sources(job)
    require_published(found)
    records = found[0].records
    base = recorded_base(records["base"], job.cache_dir, job.stage, found[0].key)
    directory = local_model(base, job.cache_dir, job.stage)
    if changes_nothing(found):
        raise failed("MERGE-001", stage="merge", base=base.ref)
    tokenizer = load_tokenizer(found[0].path)

    dtypes = _write(job, directory)
    if equal_files(directory, job.out):
        raise failed("MERGE-001", stage="merge", base=base.ref)
    ends = save_beside(tokenizer, directory, job.out)
    _require_seal(job.out, records["template"]["hash"])
    give_memory_back()  # of the files just written
    proof = _prove(job, directory, tokenizer)
    shutil.rmtree(job.out / EXACT, ignore_errors=True)
    return _result(job, made_of(found, directory), proof, dtypes, ends)


def _write(job: Job[MergeConfig], directory: Path) -> list[str]:
    """The merged weights, and the exact ones where the base's precision rounds them; gives the dtypes written."""
    found, weights = sources(job), HfFiles(directory)
    for old in [*job.out.glob("*.safetensors"), *job.out.glob("*.index.json")]:
        old.unlink()  # of a merge that was cut
    shutil.rmtree(job.out / EXACT, ignore_errors=True)
    config = meta_model(directory, found[0].records.get("vocabulary")).config
    config.use_cache = True
    shard_bytes = int(job.config.shard_gb * 1e9)
    config.save_pretrained(job.out)
    write_shards(Merged(weights, directory, found), job.out, shard_bytes, label="merge")
    dtypes = sorted({str(weights.dtype(name)).removeprefix("torch.") for name in weights.names()})
    if dtypes != ["float32"]:
        (job.out / EXACT).mkdir()
        config.save_pretrained(job.out / EXACT)
        write_shards(Merged(weights, directory, found, exact=True), job.out / EXACT, shard_bytes, label="merge")
    return dtypes


def _prove(job: Job[MergeConfig], directory: Path, tokenizer: Any) -> Proof:
    """One model is in memory at a time."""
    found = sources(job)
    before, trained = ask_pair(found, directory, tokenizer)
    require_change(before, trained, found[0].records["base"]["ref"])
    pair = trained
    if not computes_exactly(found[0].records.get("quantisation")):
        before, pair = ask_pair(found, directory, tokenizer, dequantised=True)
    exact = job.out / EXACT
    rounded = _ask_files(job.out, tokenizer)
    merged = _ask_files(exact, tokenizer) if exact.is_dir() else rounded
    return Proof(before, pair, merged, rounded, trained)


def _ask_files(directory: Path, tokenizer: Any) -> Said:
    model = load_model(directory, torch.float32)
    said = ask(model, tokenizer)
    del model
    gc.collect()
    give_memory_back()
    return said


def _require_seal(out: Path, wanted: str) -> None:
    found = seal(load_tokenizer(out))["hash"]
    if found != wanted:
        raise failed("MERGE-002", stage="merge", found=found[:12], wanted=wanted[:12])


def _result(job: Job[MergeConfig], origin: dict[str, Any], proof: Proof, dtypes: list[str], ends: list[int]) -> Result:
    found = sources(job)
    parity = proof.require()
    change = compare(proof.merged.logits, proof.before.logits, ("merged", "base"), proof.tolerance)
    if change.max_logit_difference <= NOISES * parity.max_logit_difference:
        raise failed("MERGE-001", stage="merge", base=found[0].records["base"]["ref"])
    rounding = proof.rounding()
    training = proof.training_rounding()
    report = {
        "adapter": parity.as_record(), "rounding": rounding, "training": training, "greedy": proof.greedy(),
    }  # fmt: skip
    write_whole(job.out / "parity.json", json.dumps(report, indent=2) + "\n")
    first = found[0]
    lineage = {"adapter": str(first.path), "held_out": first.records["held_out"]["path"]}
    return Result(
        kind="model",
        metrics={
            "parity_max_logit_difference": parity.max_logit_difference,
            "parity_top1_agreement": parity.top1_agreement,
            "greedy_agreement": report["greedy"]["merged"],
            "rounding_max_logit_difference": rounding["max_logit_difference"],
            "rounding_top1_agreement": rounding["top1_agreement"],
            "training_max_logit_difference": training["max_logit_difference"],
            "training_top1_agreement": training["top1_agreement"],
            "change_max_logit_difference": change.max_logit_difference,
            "change_top1_agreement": change.top1_agreement,
        },
        decisions=[
            Decision("dtype", ", ".join(dtypes), say("why_base_dtype")),
            Decision("end_token_ids", ends, say("why_end_tokens")),
        ],
        records={
            "base": first.records["base"],
            "template": first.records["template"],
            "made_of": origin,
            "parity": report,
            "lineage": lineage,
        },
    )
