"""The recipe's data as examples to train on, examples held out, and what the audit counted."""

from dataclasses import dataclass
from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.chat import ensure_template, load_tokenizer, turn_end_id
from easyllm.core.conversations import read_conversations
from easyllm.core.errors import refuse
from easyllm.core.examples import Example, encode
from easyllm.core.messages import say
from easyllm.core.progress import note
from easyllm.core.stage import Job
from easyllm.finetune.audit import Audit, audit, fitting
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.split import split


@dataclass(frozen=True)
class Rows:
    """What finetuning learns from, and what it is measured on."""

    tokenizer: Any
    """With the chat template that the rows are rendered by."""
    train: list[Example]
    held_out: list[Example]
    audit: Audit
    same: int
    """Rows whose words stand in an earlier row too."""
    decisions: list[Decision]


def prepare(job: Job[FinetuneConfig], directory: Any) -> Rows:
    """Read, split and encode the rows; ``directory`` holds the base's tokenizer. Raises UserError for what is wrong."""
    tokenizer, template = _tokenizer(directory, job.stage)
    files = job.inputs["data"].files
    parts = split(list(read_conversations(files, job.stage)), job.config.validation_rows, job.seed, files)
    fit, over = fitting(encode(tokenizer, parts.train, job.stage), job.config.sequence_tokens, job.config.too_long)
    held_out, _ = (
        fitting(encode(tokenizer, parts.held_out, job.stage), job.config.sequence_tokens, job.config.too_long)
        if parts.held_out
        else ([], [])
    )
    end = turn_end_id(tokenizer)
    assert end is not None  # encode has refused such a template
    counted = audit(fit, over, end)
    figures = {"rows": counted.rows, "tokens": counted.tokens, "labels": counted.label_tokens, "share": counted.share}
    note(say("label_audit", longest=counted.longest_tokens, over=len(over), **figures))
    return Rows(tokenizer, fit, held_out, counted, parts.same, [parts.decision, *template])


def _tokenizer(directory: Any, stage: str) -> tuple[Any, list[Decision]]:
    tokenizer = load_tokenizer(directory)
    try:
        decision = ensure_template(tokenizer)
    except ValueError as error:
        raise refuse("TEMPLATE-004", stage=stage, key="finetune.base") from error
    return tokenizer, [decision] if decision else []
