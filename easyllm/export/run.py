"""A model in the forms that others read, each proven, and the folder of a hub with its card."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from easyllm.core.artifact import Decision, write_whole
from easyllm.core.chat import load_tokenizer, seal
from easyllm.core.errors import UserError
from easyllm.core.models import load_model, local_model, quiet_libraries
from easyllm.core.parity import PROMPTS
from easyllm.core.progress import Progress, progress
from easyllm.core.stage import Job, Result
from easyllm.export import card, checks, gguf_files, gguf_parity, hub, proving
from easyllm.export.config import ExportConfig
from easyllm.export.isolated import prove_v4
from easyllm.export.licence import licence_of
from easyllm.export.quantise import quantise
from easyllm.export.v4 import make_v4

SCRATCH = ".scratch"


def run(job: Job[ExportConfig]) -> Result:
    """v4/, gguf/ and hub/, weights linked where the disk allows it. A form that says something else stops it all."""
    quiet_libraries()
    _start_anew(job.out)
    model = local_model(job.inputs["model"], job.cache_dir, job.stage)
    problems = checks.check(job)  # again: a model that has only now come to this disk was not looked at
    if problems:
        raise UserError(*problems)
    licence = licence_of(job)
    assert licence is not None  # checks.py looked
    tokenizer = load_tokenizer(model)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROMPTS]
    if tokenizer.chat_template:
        ids += [entry["ids"] for entry in seal(tokenizer)["golden"] if entry["ids"]]
    loaded = load_model(model, torch.float32)
    with torch.inference_mode():
        ours = [loaded(input_ids=torch.tensor([row])).logits[0] for row in ids]

    proofs: list[dict[str, Any]] = []
    config = job.config
    with progress("export", len(config.layouts) + len(config.gguf) + 1, "forms") as bar:
        if config.layouts:
            proofs += _layout(job, model, tokenizer, ids, ours)
            bar.advance()
        if config.gguf:
            proofs += _gguf(job, model, loaded, tokenizer, ids, ours, bar)
        _hub(job, model, licence[0], proofs)
        bar.advance()
    write_whole(job.out / "parity.json", json.dumps(proofs, indent=2) + "\n")
    decisions = [proving.v4_decision(job)] if config.layouts else []
    files = sorted(file.name for file in (job.out / "hub").iterdir())
    metrics = {f"{proof['file']}, mean divergence": proof["mean_divergence"] for proof in proofs if "file" in proof}
    return Result(
        kind="exports",
        metrics=metrics,
        decisions=[*decisions, Decision("license", licence[0], licence[1])],
        records={
            "parity": proofs,
            "hub": {"files": files, "repo": config.hub.repo if config.hub else None},
            "watched": proving.awaited(job) if config.layouts else {},
        },
    )


def _start_anew(out: Path) -> None:
    """Nothing of a cut run is kept: a half-written file has the name of a whole one."""
    for entry in out.iterdir():
        if entry.name in ("v4", "gguf", "hub", SCRATCH):
            shutil.rmtree(entry)


def _layout(
    job: Job[ExportConfig], model: Path, tokenizer: Any, ids: list[list[int]], ours: list[torch.Tensor]
) -> list[dict[str, Any]]:
    make_v4(model, tokenizer.chat_template, job.out / "v4")
    packages = proving.v4_packages(job)
    if packages is None:
        return []
    return [prove_v4(job.out / "v4", packages, tokenizer, ids, ours, job.out / SCRATCH).as_record()]


def _gguf(
    job: Job[ExportConfig], model: Path, loaded: Any, tokenizer: Any, ids: list[list[int]], ours: list[torch.Tensor],
    bar: Progress,
) -> list[dict[str, Any]]:  # fmt: skip
    path = model / "generation_config.json"
    generation = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    ends, told_ends = gguf_parity.ends_of(tokenizer, generation)
    told = gguf_parity.reference(loaded, tokenizer, ids, ours, ends)
    scratch, folder = job.out / SCRATCH, job.out / "gguf"
    scratch.mkdir(exist_ok=True)
    folder.mkdir()
    proofs = []
    for kind in sorted(job.config.gguf):  # f16 before what is made from it
        target = folder / f"{job.recipe}-{kind}.gguf"
        if kind == "q4_k_m":
            source = folder / f"{job.recipe}-f16.gguf"
            if not source.is_file():
                source = scratch / source.name
                gguf_files.convert(model, source, "f16", told_ends)
            quantise(source, target, lambda: bar.advance(0))
        else:
            gguf_files.convert(model, target, kind, told_ends)
        proofs.append(gguf_parity.prove_gguf(target, kind, told, tokenizer, scratch).as_record())
        bar.advance()
    return proofs


def _hub(job: Job[ExportConfig], model: Path, licence: str, proofs: list[dict[str, Any]]) -> None:
    scores = job.inputs.get("scores")
    facts = card.Facts(
        recipe=job.recipe,
        config=job.config,
        licence=licence,
        model=model,
        proofs=proofs,
        v4_proven=any("left" in proof for proof in proofs),
        scores=scores.manifest if scores else None,
    )
    curve = card.loss_curve(model)
    hub.make_folder(job, model, card.model_card(facts, curve is not None), curve)
