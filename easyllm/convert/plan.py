"""What conversion will do."""

from easyllm.convert.checks import check
from easyllm.convert.config import HALVES, ConvertConfig
from easyllm.core.artifact import Decision
from easyllm.core.errors import UserError
from easyllm.core.families.config import read_architecture
from easyllm.core.families.tables import FAMILIES
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.messages import say
from easyllm.core.models import present_model
from easyllm.core.stage import Job, Plan

ANSWER = "easyllm.convert.answer"
FLOAT_BYTES, HALF_BYTES = 4, 2
PROOF_BYTES = 1_000_000_000
"""What conversion and its proof take beside the largest file of weights."""
TOLERANCE = 3e-5
"""Largest difference of any logit between Megatron's model and transformers', as a share of the largest logit.

fp32 on both sides differs by 1e-6 to 2e-6 of it. It is relative because in a model that has trained for few steps
a wrong row moves the logits, which are small there, by less than any fixed limit that suits a trained one.
"""


def plan(job: Job[ConvertConfig]) -> Plan:
    """Sizes are exact once what is converted is there. UserError where checks do not hold."""
    problems = check(job)
    if problems:
        raise UserError(*problems)
    config = job.config
    decisions = [Decision("parity tolerance", TOLERANCE, say("why_tolerance"))]
    a = _architecture(job)
    if a is None:
        unknown = say("after_checkpoint") if config.to == "hf" else say("after_model")
        return Plan({"parameters": unknown}, [], decisions)
    weights = a.parameters() * (HALF_BYTES if config.dtype in HALVES else FLOAT_BYTES)
    figures = {
        "family": say("family_as", family=a.family, hf_class=FAMILIES[a.family].hf_class),
        "parameters, padded rows included": a.parameters(),
        "vocabulary, rows": _rows(config, a),
        "model, bytes (at most)": weights,
    }
    held = min(config.shard_mb * 10**6, weights) if config.to == "hf" else a.padded_vocabulary * a.hidden * 4
    return Plan(figures, [], decisions, disk_bytes=weights, memory_bytes=held + PROOF_BYTES)


def _architecture(job: Job[ConvertConfig]) -> Architecture | None:
    """None until it is there; a checkpoint that Megatron-LM wrote is opened by the run alone."""
    if job.config.to == "hf":
        found = job.inputs.get("checkpoint")
        known = found is not None and found.manifest is not None
        return Architecture.from_record(found.manifest.records["architecture"]) if known else None  # type: ignore[union-attr]  # known
    source = job.inputs["model"]
    directory = present_model(source, job.cache_dir)
    if directory is None:
        return None
    return read_architecture(directory, job.stage, "convert.model", job.config.tensor_parallel)


def _rows(config: ConvertConfig, a: Architecture) -> str:
    """The ledger of padding: rows there are, and rows there will be."""
    if config.to == "hf":
        return say("rows_cut", padded=a.padded_vocabulary, rows=a.tokenizer_size)
    return say("rows_padded", padded=a.padded_vocabulary, rows=a.tokenizer_size)
