"""What conversion will do."""

from easyllm.convert.checks import check
from easyllm.convert.config import ConvertConfig
from easyllm.convert.families import FAMILIES
from easyllm.core.artifact import Decision
from easyllm.core.errors import UserError
from easyllm.core.launch import torchrun_command
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.messages import say
from easyllm.core.stage import Job, Plan

READER = "easyllm.convert.read_megatron"
ANSWER = "easyllm.convert.answer"
JOB_FILE = ".read.json"
FLOAT_BYTES = 4
TOLERANCE = 3e-5
"""Largest difference of any logit between Megatron's model and the converted one, as a share of the largest logit.

fp32 on both sides differs by 1e-6 to 2e-6 of it. It is relative because in a model that has trained for few steps
a wrong row moves the logits, which are small there, by less than any fixed limit that suits a trained one.
"""


def plan(job: Job[ConvertConfig]) -> Plan:
    """Sizes are exact once the checkpoint is there. UserError where checks do not hold."""
    problems = check(job)
    if problems:
        raise UserError(*problems)
    found = job.inputs.get("checkpoint")
    decisions = [Decision("parity tolerance", TOLERANCE, say("why_tolerance"))]
    commands = [" ".join(torchrun_command(READER, [str(job.out / JOB_FILE)], 1))]
    if found is None or found.manifest is None:
        return Plan({"parameters": say("after_checkpoint")}, commands, decisions)
    a = Architecture.from_record(found.manifest.records["architecture"])
    weights = a.parameters() * FLOAT_BYTES
    figures = {
        "family": say("family_as", family=a.family, hf_class=FAMILIES[a.family].hf_class),
        "parameters, padded rows included": a.parameters(),
        "vocabulary, rows": say("rows_cut", padded=a.padded_vocabulary, rows=a.tokenizer_size),
        "model, bytes (at most)": weights,
    }
    # The reader leaves Megatron's weights beside the model until the parity report is made.
    return Plan(figures, commands, decisions, disk_bytes=2 * weights, memory_bytes=3 * weights)
