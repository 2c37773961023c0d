"""Preference pairs and a model become a model, or an adapter, that prefers what was chosen."""

import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from easyllm.align import table, trainers
from easyllm.align.config import AlignConfig
from easyllm.align.curve import Row, rows_of, write_curve
from easyllm.align.encoding import Encoded, Fitted, audit, encode_rows, fitting
from easyllm.align.measure import Measured, log_probs, measure
from easyllm.align.model import Start, build, find
from easyllm.align.plan import rate_of, reference_of, steps_of
from easyllm.align.preferences import both_kinds, read_preferences, split
from easyllm.align.product import write
from easyllm.align.progress import Told
from easyllm.core.artifact import Decision, write_whole
from easyllm.core.batches import padding_id
from easyllm.core.chat import ensure_template, load_tokenizer, seal, turn_end_id
from easyllm.core.errors import refuse
from easyllm.core.messages import say
from easyllm.core.models import choose_dtype, quiet_libraries
from easyllm.core.progress import note, progress
from easyllm.core.stage import Job, Result
from easyllm.core.tuning.building import Tuned

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class Rows:
    """What is learned from, what is measured on, and what was counted."""

    tokenizer: Any
    train: list[Encoded]
    held_out: list[Encoded]
    audit: dict[str, Any]
    decisions: list[Decision]


def run(job: Job[AlignConfig]) -> Result:
    """A directory that stock PEFT or transformers loads, with tokenizer, sealed template, loss curve and report."""
    quiet_libraries()
    start = find(job)
    rows = _prepare(job, start)
    dtype, why = choose_dtype(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    tuned = build(job.config, start, dtype, job.seed, len(rows.tokenizer), job.stage)
    if torch.cuda.is_available() and tuned.records["quantisation"] is None:
        tuned.model.to("cuda")
    trained = sum(p.numel() for p in tuned.model.parameters() if p.requires_grad)

    micro, filler = job.config.batch.micro_samples, padding_id(rows.tokenizer)
    before = [measure(tuned.model, part, micro, filler) for part in (rows.train, rows.held_out)]
    curve, seconds = _train(job, tuned, rows, before[0], dtype)
    after = [measure(tuned.model, part, micro, filler) for part in (rows.train, rows.held_out)]
    report = [
        line
        for name, part, b, a in zip(("train", "held_out"), (rows.train, rows.held_out), before, after, strict=True)
        for line in table.lines(name, part, b, a, job.config.objective, job.config.beta)
    ]

    write_curve(curve, job.out)
    _write_report(job, report, rows)
    held_out = write(job.out, tuned, rows.tokenizer, rows.held_out, start)
    rate, why_rate = rate_of(job.config)
    reference, why_reference = reference_of(job.config)
    return Result(
        kind=tuned.kind,
        metrics=_metrics(curve, report, rows)
        | {"trained_parameters": trained, "training_seconds": round(seconds, 1), "table": table.as_records(report)},
        decisions=[
            *tuned.decisions,
            Decision("dtype", str(dtype).removeprefix("torch."), why),
            Decision("learning rate", rate, why_rate),
            Decision("reference", reference, why_reference),
            *rows.decisions,
        ],
        records={
            "base": start.base,
            "template": seal(rows.tokenizer) | {"turn_end_id": turn_end_id(rows.tokenizer)},
            "held_out": held_out,
            "objective": job.config.objective,
            **tuned.records,
        },
    )


def _prepare(job: Job[AlignConfig], start: Start) -> Rows:
    """Read, split and encode the rows. Raises UserError for what is wrong."""
    tokenizer, config = load_tokenizer(start.words), job.config
    try:
        template = ensure_template(tokenizer)
    except ValueError as error:
        raise refuse("TEMPLATE-004", stage=job.stage, key=f"{job.stage}.base") from error
    read = list(read_preferences(job.inputs["data"].files, config.objective, job.stage))
    parts = split(read, config.validation_rows, job.seed, job.stage)

    def fit(part: Any) -> Fitted:
        encoded = encode_rows(tokenizer, part, job.stage)
        return fitting(encoded, config.sequence_tokens, config.too_long, job.stage) if encoded else ([], [])

    train, held_out = fit(parts.train), fit(parts.held_out)
    both_kinds([row.source for row in train[0]], job.stage)  # of kto, whose long answers may all be of one kind
    counted = audit(train, held_out, parts.same)
    note(say("align_audit", **{name: counted[name] for name in (
        "rows", "pairs", "rows_same", "longest_tokens", "chosen_mean_tokens", "rejected_mean_tokens",
    )}, over=len(train[1])))  # fmt: skip
    if held_out[1]:
        note(f"  {say('audit_held_out_dropped', count=len(held_out[1]))}")
    decisions = [Decision("held_out_rows", len(held_out[0]), say("why_align_split"))]
    return Rows(tokenizer, train[0], held_out[0], counted, [*decisions, *([template] if template else [])])


def _train(
    job: Job[AlignConfig], tuned: Tuned, rows: Rows, reference: Measured, dtype: torch.dtype
) -> tuple[list[Row], float]:
    """Every step that is not done yet: (the whole curve, seconds)."""
    config, state = job.config, job.out / ".state"
    state.mkdir(exist_ok=True)
    examples = _dataset(job, tuned, rows, reference)
    steps = steps_of(config, len(examples))
    found = trainers.newest(state)
    done = int(found.rpartition("-")[2]) if found else 0
    if found:
        note(say("going_on", stage=job.stage, step=done, steps=steps))
    started = time.monotonic()
    ids = (tuned.model.config.pad_token_id, tuned.model.generation_config.pad_token_id)
    with progress("align", steps, "steps", done=done) as bar:
        told = Told(bar, job.stage, rate_of(config)[0])
        words = _with_padding(rows.tokenizer)
        trainer = trainers.make(
            config.objective, tuned.model, examples, words, [told], **_arguments(job, state, steps, dtype)
        )
        trainers.quiet(trainer)
        trainer.train(resume_from_checkpoint=found)
    # The trainer tells the model its own padding; the files shall say what the base said.
    tuned.model.config.pad_token_id, tuned.model.generation_config.pad_token_id = ids
    return rows_of(trainer.state.log_history), time.monotonic() - started


def _dataset(job: Job[AlignConfig], tuned: Tuned, rows: Rows, reference: Measured) -> Any:
    if job.config.objective == "dpo":
        return trainers.dpo_rows(rows.train, reference)
    if job.config.objective == "orpo":
        return trainers.orpo_rows(rows.train)
    micro = job.config.batch.micro_samples
    answers = trainers.kto_rows(rows.train, reference, micro, job.seed)
    asked = [(entry["prompt_ids"], entry["KL_completion_ids"]) for entry in answers]
    for entry, value in zip(answers, log_probs(tuned.model, asked, micro, padding_id(rows.tokenizer)), strict=True):
        entry["ref_KL_logps"] = value
    return trainers.as_dataset(answers)


def _arguments(job: Job[AlignConfig], state: Path, steps: int, dtype: torch.dtype) -> dict[str, Any]:
    config = job.config
    return {
        "output_dir": str(state),
        "beta": config.beta,
        "per_device_train_batch_size": config.batch.micro_samples,
        "gradient_accumulation_steps": config.batch.global_samples // config.batch.micro_samples,
        "max_steps": steps,
        "learning_rate": rate_of(config)[0],
        "lr_scheduler_type": SCHEDULES[config.schedule],
        "warmup_steps": config.warmup_ratio,  # less than one is a share of the steps
        "weight_decay": 0.0,
        "max_grad_norm": config.max_gradient_norm,
        "gradient_checkpointing": config.gradient_checkpointing,
        "disable_dropout": config.lora.dropout == 0,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "use_cpu": not torch.cuda.is_available(),
        "seed": job.seed,
        "save_strategy": "steps",
        "save_steps": config.checkpoint_every_steps,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a NaN is told, not averaged away
        "disable_tqdm": True,
        "report_to": "none",
        "remove_unused_columns": False,
    }


def _with_padding(tokenizer: Any) -> Any:
    """A copy that pads with what we pad with: the tokenizer that is saved stays as it was."""
    words = copy.deepcopy(tokenizer)
    if words.pad_token_id is None:
        words.pad_token = words.convert_ids_to_tokens(padding_id(tokenizer))
    return words


def _metrics(curve: list[Row], report: list[table.Line], rows: Rows) -> dict[str, Any]:
    whole = {line.part: line for line in report}  # the last line of a part is the one of all its files
    found: dict[str, Any] = {
        "steps": len(curve),
        "first_loss": curve[0]["loss"],
        "last_loss": curve[-1]["loss"],
        "rows": rows.audit["rows"],
        "rows_same": rows.audit["rows_same"],
        "rows_dropped": len(rows.audit["dropped"]),
    }
    for part, line in whole.items():
        found |= {f"{part}_margin": line.margin, f"{part}_accuracy": line.accuracy}
        found |= {f"{part}_preferred_before": line.preferred_before, f"{part}_preferred_after": line.preferred_after}
    return found


def _write_report(job: Job[AlignConfig], report: list[table.Line], rows: Rows) -> None:
    drawn = table.as_markdown(report)
    note(say("align_table", objective=job.config.objective) + "\n\n" + drawn)
    head = say("align_report", objective=job.config.objective, beta=job.config.beta, base=job.inputs["base"].ref)
    reward = say("align_reward_orpo" if job.config.objective == "orpo" else "align_reward_gain")
    columns = say("align_report_columns", reward=reward)
    write_whole(job.out / "report.md", f"{head}\n\n{drawn}\n{columns}\n")
    write_whole(job.out / "audit.json", json.dumps(rows.audit, indent=2, ensure_ascii=False) + "\n")
