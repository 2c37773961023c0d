"""A model and its base become scores that a person can compare."""

import gc
from pathlib import Path
from typing import Any

import torch

from easyllm.core.artifact import Decision
from easyllm.core.chat import ensure_template, load_tokenizer
from easyllm.core.conversations import read_conversations
from easyllm.core.errors import refuse
from easyllm.core.examples import Example, encode
from easyllm.core.models import choose_dtype, load_model, local_model, quiet_libraries
from easyllm.core.parity import PROMPTS
from easyllm.core.progress import Progress, progress
from easyllm.core.stage import Job, Result
from easyllm.core.tuning.adapted import load_adapted
from easyllm.evaluate import report
from easyllm.evaluate.config import EvaluateConfig
from easyllm.evaluate.measure import Loss, answers, held_out_loss
from easyllm.evaluate.questions import Question, questions
from easyllm.evaluate.sides import Sides, row_files, sides


def run(job: Job[EvaluateConfig]) -> Result:
    """scores.json, answers.jsonl and report.md; both sides see the very same token ids."""
    quiet_libraries()
    found = sides(job)
    files, why_rows = row_files(job)
    places = {"tuned": local_model(found.tuned, job.cache_dir, job.stage)}
    if found.base:
        places["base"] = local_model(found.base, job.cache_dir, job.stage)
    tokenizer, decisions = _tokenizer(job, found, places)
    examples = encode(tokenizer, read_conversations(files, job.stage), job.stage)
    asked = questions(job)
    if not examples and not asked:
        raise refuse("EVAL-001", stage=job.stage, key="evaluate.prompts")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype, why = choose_dtype(device)
    losses: dict[str, Loss] = {}
    said: dict[str, list[str]] = {}
    with progress("evaluate", len(places) * (len(examples) + len(asked)), "rows and prompts") as bar:
        for side in sorted(places):
            model = _model(job, places[side], found.adapter if side == "tuned" else None, dtype, device)
            loss, said[side] = _measure(model, tokenizer, examples, asked, job.config, bar)
            if loss:
                losses[side] = loss
            del model
            gc.collect()

    names = {"tuned": job.inputs["model"].ref} | ({"base": found.base.ref} if found.base else {})
    scores = report.Scores(names, losses, asked, said)
    report.write(scores, job.out)
    report.show(scores)
    return Result(
        kind="scores",
        metrics=scores.metrics(),
        decisions=[
            Decision("base", names.get("base"), found.why_base),
            Decision("rows", [file.name for file in files], why_rows),
            Decision("dtype", str(dtype).removeprefix("torch."), why),
            *decisions,
        ],
        records={"answers": scores.rows()},
    )


def _tokenizer(job: Job[EvaluateConfig], found: Sides, places: dict[str, Path]) -> tuple[Any, list[Decision]]:
    """The tuned side's tokenizer, proven to give the base the same ids (EVAL-003)."""
    tokenizer = load_tokenizer(found.adapter or places["tuned"])
    if "base" in places and places["base"] != places["tuned"]:
        other = load_tokenizer(places["base"])
        if any(tokenizer(text)["input_ids"] != other(text)["input_ids"] for text in PROMPTS):
            raise refuse("EVAL-003", stage=job.stage, key="evaluate.base", model=job.inputs["model"].ref)
    try:
        decision = ensure_template(tokenizer)
    except ValueError as error:
        raise refuse("TEMPLATE-004", stage=job.stage, key="evaluate.model") from error
    return tokenizer, [decision] if decision else []


def _model(
    job: Job[EvaluateConfig], directory: Path, adapter: Path | None, dtype: torch.dtype, device: torch.device
) -> Any:
    tuned = job.inputs["model"].manifest
    if adapter is None or tuned is None:
        return load_model(directory, dtype).to(device)
    return load_adapted(adapter, tuned.records, directory, dtype).to(device)


def _measure(
    model: Any, tokenizer: Any, examples: list[Example], asked: list[Question], config: EvaluateConfig, bar: Progress
) -> tuple[Loss | None, list[str]]:
    loss = held_out_loss(model, tokenizer, examples, config.batch_samples, bar) if examples else None
    conversations = [[{"role": "user", "content": question.prompt}] for question in asked]
    said = answers(model, tokenizer, conversations, config.max_new_tokens, config.batch_samples, bar)
    return loss, said
