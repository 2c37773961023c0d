"""The recipe's data as examples to train on, examples held out, and what the audit counted."""

from dataclasses import dataclass
from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.chat import load_tokenizer, turn_end_id
from easyllm.core.examples import Example, encode
from easyllm.core.stage import Job
from easyllm.finetune import audit_report, template
from easyllm.finetune.audit import Audit, audit, fitting
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.sources import data_files, data_rows
from easyllm.finetune.split import split


@dataclass(frozen=True)
class Rows:
    """What finetuning learns from, and what it is measured on."""

    tokenizer: Any
    """With the chat template that the rows are rendered by."""
    train: list[Example]
    held_out: list[Example]
    audit: Audit
    decisions: list[Decision]
    added: tuple[str, ...] = ()
    """Special tokens that the template is written with and the base's tokenizer lacked."""


def prepare(job: Job[FinetuneConfig], directory: Any) -> Rows:
    """Read, split and encode the rows; ``directory`` holds the base's tokenizer. Raises UserError for what is wrong."""
    tokenizer, config = load_tokenizer(directory), job.config
    chosen = template.choose(tokenizer, job)
    parts = split(list(data_rows(job)), config.validation_rows, job.seed, data_files(job))
    train, held_out = (
        fitting(encode(tokenizer, rows, job.stage, config.labels), config.sequence_tokens, config.too_long)
        if rows
        else None
        for rows in (parts.train, parts.held_out)
    )
    assert train is not None  # split has refused data without rows to train on
    end = turn_end_id(tokenizer)
    assert end is not None  # encode has refused such a template
    counted = audit(train, end, held_out, parts.same)
    audit_report.show(counted)
    tokenizer.chat_template = chosen.saved
    measured = held_out.kept if held_out else []
    decisions = [parts.decision, *chosen.decisions]
    return Rows(tokenizer, train.kept, measured, counted, decisions, chosen.added)
