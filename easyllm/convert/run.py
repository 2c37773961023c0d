"""Conversion: read with Megatron in a process of its own, map, write, prove."""

import json
import shutil
from pathlib import Path
from typing import Any

from easyllm.convert.config import ConvertConfig
from easyllm.convert.plan import JOB_FILE, READER, TOLERANCE, plan
from easyllm.core.artifact import write_whole
from easyllm.core.errors import refuse
from easyllm.core.launch import run_ranks
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.messages import say
from easyllm.core.models import quiet_libraries
from easyllm.core.parity import Parity, compare
from easyllm.core.progress import note
from easyllm.core.stage import Job, Result

UNPACKED = ".unpacked"


def run(job: Job[ConvertConfig]) -> Result:
    """A Hugging Face model with a parity report; StageFailed, and nothing published, where it does not hold."""
    source = job.inputs["checkpoint"]
    if source.path is None or source.manifest is None:
        raise refuse("INPUT-005", stage=job.stage, key="convert.checkpoint", ref=source.ref)
    records = source.manifest.records
    architecture = Architecture.from_record(records["architecture"])
    parity = convert(source.path, architecture, job.out)
    write_whole(job.out / "parity.json", json.dumps(parity.as_record(), indent=2) + "\n")
    return Result(
        kind="model",
        metrics={"parameters": architecture.parameters(), "max_logit_difference": parity.max_logit_difference},
        decisions=plan(job).decisions,
        records={"parity": parity.as_record(), **{k: records[k] for k in ("architecture", "ledger") if k in records}},
    )


def convert(checkpoint: Path, architecture: Architecture, out: Path) -> Parity:
    """Write the model of a checkpoint artifact into ``out``; gives the parity that holds, or raises StageFailed."""
    from safetensors.torch import load_file

    from easyllm.convert.hf_model import logits_of, write_model
    from easyllm.convert.mapping import to_hf
    from easyllm.convert.prompts import parity_ids
    from easyllm.convert.read_megatron import LOGITS, WEIGHTS

    tokenizer = _tokenizer(checkpoint / "tokenizer")
    prompts = parity_ids(tokenizer, architecture.tokenizer_size, architecture.max_positions)
    unpacked = _read(checkpoint / "checkpoint", architecture, prompts, out)
    write_model(to_hf(load_file(unpacked / WEIGHTS), architecture), architecture, tokenizer, out)
    theirs = load_file(unpacked / LOGITS)
    left = [theirs[str(i)][:, : architecture.tokenizer_size] for i in range(len(prompts))]
    tolerance = TOLERANCE * max(float(logits.abs().max()) for logits in left)
    parity = compare(left, logits_of(out, prompts), ("Megatron-Core", "transformers"), tolerance).require()
    note(say("parity_holds", stage="convert", **parity.as_record()))
    return parity


def _tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    quiet_libraries()
    return AutoTokenizer.from_pretrained(directory)


def _read(checkpoint: Path, architecture: Architecture, prompts: list[list[int]], out: Path) -> Path:
    """Run the reader; gives the directory with Megatron's weights and logits."""
    from easyllm.convert.read_megatron import ReadJob

    unpacked = out / UNPACKED
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir(parents=True)
    job_file = out / JOB_FILE
    ReadJob(str(checkpoint), architecture.as_record(), prompts, str(unpacked)).write(job_file)
    run_ranks(READER, [str(job_file)], 1)
    return unpacked
