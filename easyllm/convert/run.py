"""Conversion in either direction: map tensor by tensor, write, prove."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from easyllm.convert.config import ConvertConfig
from easyllm.convert.plan import plan
from easyllm.core.artifact import Decision, write_whole
from easyllm.core.errors import refuse
from easyllm.core.memory import peak_memory
from easyllm.core.models import local_model, local_tokenizer, quiet_libraries
from easyllm.core.stage import Job, Result

CHECKPOINT, TOKENIZER, PARITY, SCRATCH = "checkpoint", "tokenizer", "parity.json", ".proof"
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def run(job: Job[ConvertConfig]) -> Result:
    """A model or a checkpoint with its parity report; StageFailed, and nothing published, where it does not hold."""
    quiet_libraries()
    _clear(job.out)
    with peak_memory() as peak:
        result = _to_hf(job) if job.config.to == "hf" else _to_megatron(job)
    return replace(result, metrics={**result.metrics, "peak_memory_bytes": peak.bytes})


def _clear(out: Path) -> None:
    """Drop what a cut run has left: another size of shards would leave some of them behind."""
    for left in out.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def _to_hf(job: Job[ConvertConfig]) -> Result:
    from easyllm.convert.foreign import open_checkpoint
    from easyllm.convert.hf_model import write_config
    from easyllm.core.families.mapping import AsHf
    from easyllm.core.families.shards import write_shards

    source = job.inputs["checkpoint"]
    if source.path is None or source.digest is None:
        raise refuse("INPUT-005", stage=job.stage, key="convert.checkpoint", ref=source.ref)
    tokenizer = _tokenizer(job, source.path / TOKENIZER)
    opened = open_checkpoint(source.path, len(tokenizer) if tokenizer is not None else None)
    made, a = AsHf(opened.weights, opened.architecture), opened.architecture
    dtype = _dtype(job, made)
    largest = write_shards(made, job.out, job.config.shard_mb * 10**6, dtype)
    write_config(a, str(dtype).removeprefix("torch."), tokenizer, job.out)
    parity = _proof(job, source.path, a, job.out, tokenizer)
    records = source.manifest.records if source.manifest else {}
    decisions = [Decision("architecture", a.family, text) for text in opened.inferred]
    return Result(
        kind="model",
        metrics=_metrics(a, parity) | {"largest_file_bytes": largest},
        decisions=[*decisions, *plan(job).decisions],
        records={"parity": parity, "architecture": a.as_record(), **_kept(records)},
    )


def _to_megatron(job: Job[ConvertConfig]) -> Result:
    from easyllm.convert.write_megatron import write_checkpoint
    from easyllm.core.families.config import family_of, read_architecture
    from easyllm.core.families.mapping import AsMegatron
    from easyllm.core.families.weights import HfFiles

    source = job.inputs["model"]
    directory = local_model(source, job.cache_dir, job.stage)
    a = read_architecture(directory, job.stage, "convert.model", job.config.tensor_parallel)
    family = family_of(json.loads((directory / "config.json").read_text("utf-8")))
    made = AsMegatron(HfFiles(directory), a, family)
    dtype = _dtype(job, made)
    a = replace(a, dtype=str(dtype).removeprefix("torch."))
    checkpoint = job.out / CHECKPOINT
    checkpoint.mkdir()
    write_checkpoint(made, checkpoint, _plain(a), dtype)
    tokenizer = _tokenizer(job, directory)
    if tokenizer is not None:
        tokenizer.save_pretrained(job.out / TOKENIZER)
    parity = _proof(job, checkpoint, a, _stock(made, a, family, directory, job.out), tokenizer)
    return Result(
        kind="checkpoint",
        metrics=_metrics(a, parity),
        decisions=plan(job).decisions,
        records={"parity": parity, "architecture": a.as_record(), "ledger": _ledger(a)},
    )


def _stock(made: Any, a: Any, family: Any, directory: Path, out: Path) -> Path:
    """The directory that stock transformers loads: a family of which it has no class is compared as a llama."""
    if family.written_as is None:
        return directory
    from easyllm.convert.hf_model import write_config
    from easyllm.core.families.mapping import AsHf
    from easyllm.core.families.shards import write_shards

    plain = out / f".{family.written_as}"
    plain.mkdir()
    write_shards(AsHf(made, a), plain, 2 * 10**9)
    write_config(a, a.dtype, None, plain)
    return plain


def _tokenizer(job: Job[ConvertConfig], beside: Path) -> Any:
    """That of the recipe, or the one that lies with the weights; None where there is none."""
    from transformers import AutoTokenizer

    said = job.inputs.get("tokenizer")
    directory = local_tokenizer(said, job.cache_dir, job.stage) if said else beside
    if said is None and not any(directory.glob("tokenizer*")):
        return None
    return AutoTokenizer.from_pretrained(str(directory), local_files_only=True)


def _dtype(job: Job[ConvertConfig], weights: Any) -> Any:
    """torch's dtype to write in: asked, or that of the embedding."""
    import torch

    asked = job.config.dtype
    return weights.dtype(weights.names()[0]) if asked == "auto" else getattr(torch, DTYPES[asked])


def _proof(job: Job[ConvertConfig], megatron: Path, a: Any, hf: Path, tokenizer: Any) -> dict[str, Any]:
    """The report, also as a file; StageFailed where the two do not say the same."""
    from easyllm.convert.prompts import parity_ids
    from easyllm.convert.prove import prove
    from easyllm.convert.stock import Stock

    prompts = parity_ids(tokenizer, a.tokenizer_size, a.max_positions)
    found = prove(megatron, a, Stock.of(hf), prompts, job.out / SCRATCH, DTYPES.get(job.config.dtype)).as_record()
    write_whole(job.out / PARITY, json.dumps(found, indent=2) + "\n")
    return found


def _plain(a: Any) -> dict[str, Any]:
    """What stands beside the tensors: our record, and the arguments by which Megatron-LM knows the model."""
    from easyllm.convert.megatron_args import arguments_of
    from easyllm.core.megatron.files import SAVED

    ours = {"architecture": a.as_record(), "step": 0, "consumed": 0}
    arguments = arguments_of(a)
    theirs = {"args": arguments} if arguments is not None else {}  # it has no words for ALiBi, say
    return {SAVED: ours, **theirs, "checkpoint_version": 3.0, "iteration": 0}


def _metrics(a: Any, parity: dict[str, Any]) -> dict[str, Any]:
    return {"parameters": a.parameters(), "max_logit_difference": parity["max_logit_difference"]}


def _kept(records: dict[str, Any]) -> dict[str, Any]:
    return {"ledger": records["ledger"]} if "ledger" in records else {}


def _ledger(a: Any) -> dict[str, Any]:
    """As the corpus stage writes it: the rows that mean something, and what ends a text."""
    special = {name: number for name, number in a.special_ids.items() if name != "eod"}
    return {"tokenizer_size": a.tokenizer_size, "special": special, "eod_id": a.special_ids.get("eod", 0)}
