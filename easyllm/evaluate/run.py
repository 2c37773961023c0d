"""A model and its base become scores that a person can compare."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, GenerationConfig

from easyllm.core.artifact import Decision
from easyllm.core.chat import end_token_ids, ensure_template, load_tokenizer, render_question
from easyllm.core.conversations import read_conversations
from easyllm.core.errors import refuse
from easyllm.core.examples import Example, encode
from easyllm.core.models import choose_dtype, load_model, local_model, quiet_libraries
from easyllm.core.parity import PROMPTS
from easyllm.core.progress import progress
from easyllm.core.stage import Job, Result
from easyllm.core.tuning.adapted import load_adapted
from easyllm.evaluate import report
from easyllm.evaluate.config import EvaluateConfig
from easyllm.evaluate.lengths import require_room, shortest_context
from easyllm.evaluate.measure import answers, held_out_loss
from easyllm.evaluate.questions import questions
from easyllm.evaluate.served import Served
from easyllm.evaluate.sides import Sides, row_files, sides
from easyllm.evaluate.speakers import Local, Speaker
from easyllm.evaluate.taskfiles import TaskFile, task_files

if TYPE_CHECKING:
    from easyllm.evaluate.harness import Tasks


def run(job: Job[EvaluateConfig]) -> Result:
    """scores.json, answers.jsonl, report.md and report.html; all sides see the very same token ids."""
    quiet_libraries()
    found = sides(job)
    files, why_rows = row_files(job)
    own = task_files(job)
    tasks = _tasks(job, own)
    places = {"tuned": local_model(found.tuned, job.cache_dir, job.stage)}
    if found.base:
        places["base"] = local_model(found.base, job.cache_dir, job.stage)
    tokenizer, decisions = _tokenizer(job, found, places)
    examples = encode(tokenizer, read_conversations(files, job.stage), job.stage)
    asked = questions(job)
    if not examples and not asked and not tasks:
        raise refuse("EVAL-001", stage=job.stage, key="evaluate.prompts")

    positions = shortest_context(places.values())
    prompts = [render_question(tokenizer, question.prompt, job.stage, "evaluate.prompts") for question in asked]
    require_room(job, positions, examples, prompts)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype, why = choose_dtype(device)
    scores = report.Scores(_names(job, found), asked)
    for side, speaker in _speakers(job, found, places, tokenizer, dtype, device):
        _measure(side, speaker, tokenizer, examples, prompts, tasks, job.config, scores, positions)
    report.write(scores, job.out)
    report.show(scores)
    return Result(
        kind="scores",
        metrics=scores.metrics(),
        decisions=[
            Decision("base", scores.names.get("base"), found.why_base),
            Decision("rows", [file.name for file in files], why_rows),
            Decision("dtype", str(dtype).removeprefix("torch."), why),
            *decisions,
        ],
        records={"answers": scores.rows(), "tasks": scores.tasks},
    )


def _tasks(job: Job[EvaluateConfig], own: list[TaskFile]) -> "Tasks | None":
    if not own and not job.config.tasks:
        return None
    try:
        from easyllm.evaluate.harness import Tasks
    except ImportError as error:
        raise refuse("EVAL-015", stage=job.stage, key="evaluate.tasks", reason=str(error)) from error
    return Tasks(job, own)


def _names(job: Job[EvaluateConfig], found: Sides) -> dict[str, str]:
    names = {"base": found.base.ref} if found.base else {}
    if found.merged_from:
        names["adapter"] = found.merged_from.adapter.name
    names["tuned"] = job.inputs["model"].ref
    return names | ({"served": job.config.endpoint.base_url} if job.config.endpoint else {})


def _speakers(
    job: Job[EvaluateConfig], found: Sides, places: dict[str, Path], tokenizer: Any, dtype: torch.dtype,
    device: torch.device,
) -> Iterator[tuple[str, Speaker]]:  # fmt: skip
    """Each side in turn, one model in memory at a time; a served one is tried first, because it may be away."""
    ends = end_token_ids(tokenizer, _generation_config(places["tuned"]))
    served = Served(job.config.endpoint, ends, job.stage) if job.config.endpoint else None
    if served:
        served.require()
    loads: dict[str, Callable[[], Any]] = {}
    if found.base:
        loads["base"] = lambda: load_model(places["base"], dtype)
    if found.merged_from:
        of = found.merged_from
        below = local_model(of.base, job.cache_dir, job.stage)
        loads["adapter"] = lambda: load_adapted(of.adapter, of.records, below, dtype)
    loads["tuned"] = lambda: _tuned(job, found, places["tuned"], dtype)
    for side, load in loads.items():
        model = load().to(device)
        yield side, Local(model, tokenizer, job.config.batch_samples)
        del model
        gc.collect()
    if served:
        yield "served", served
        served.close()


def _generation_config(directory: Path) -> Any:
    """What a model loaded from ``directory`` would go by."""
    if (directory / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(directory, local_files_only=True)
    return GenerationConfig.from_model_config(AutoConfig.from_pretrained(directory, local_files_only=True))


def _tuned(job: Job[EvaluateConfig], found: Sides, directory: Path, dtype: torch.dtype) -> Any:
    manifest = job.inputs["model"].manifest
    if found.adapter is None or manifest is None:
        return load_model(directory, dtype)
    return load_adapted(found.adapter, manifest.records, directory, dtype)


def _measure(
    side: str, speaker: Speaker, tokenizer: Any, examples: list[Example], prompts: list[list[int]],
    tasks: "Tasks | None", config: EvaluateConfig, scores: report.Scores, positions: int | None,
) -> None:  # fmt: skip
    with progress(side, len(examples) + len(prompts), "rows and prompts") as bar:
        if examples:
            scores.losses[side] = held_out_loss(speaker, examples, bar)
        said = answers(speaker, tokenizer, prompts, config.max_new_tokens, bar)
        scores.tokens[side], scores.answers[side] = said
    if tasks:
        with progress("tasks", None, "requests") as bar:
            scores.tasks[side] = tasks.score(speaker, tokenizer, bar, positions)


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
