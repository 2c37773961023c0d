"""The stages in the order the data moves, and the loop that runs them: the table of contents of the package."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from easyllm.align.config import AlignConfig
from easyllm.convert.config import ConvertConfig
from easyllm.core import recipe as recipes
from easyllm.core import workplace
from easyllm.core.artifact import Manifest, recover
from easyllm.core.cluster import ClusterConfig
from easyllm.core.digest import Digests
from easyllm.core.errors import Problem, UserError, problem, refuse
from easyllm.core.freshness import State, state
from easyllm.core.inputs import Place, resolve, written_path
from easyllm.core.messages import say
from easyllm.core.progress import note
from easyllm.core.section import Section
from easyllm.core.stage import Job, Plan
from easyllm.corpus.config import CorpusConfig
from easyllm.evaluate.config import EvaluateConfig
from easyllm.export.config import ExportConfig
from easyllm.finetune.config import FinetuneConfig
from easyllm.instruct.config import InstructConfig
from easyllm.merge.config import MergeConfig
from easyllm.pretrain.config import PretrainConfig
from easyllm.serve.config import ServeConfig

STAGES = ("corpus", "pretrain", "convert", "instruct", "finetune", "align", "merge", "evaluate", "export", "serve")

ON_CLUSTERS = ("pretrain", "finetune")
"""The stages whose ranks follow the cluster."""


class Recipe(Section):
    """One language model's life. Every section is optional: a recipe may start and end anywhere."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run; artifacts land in <runs_dir>/<name>/<stage>."""
    seed: int = 1234
    """Seed of everything that draws numbers."""
    runs_dir: str = "runs"
    """Folder for all runs, relative to where easyllm is called."""
    cluster: ClusterConfig | None = None
    """The machines that pretraining, finetuning and the cleaning of a corpus work on. Unset, and for other stages:
    this one."""
    corpus: CorpusConfig | None = None
    """Text to tokenizer and indexed tokens."""
    pretrain: PretrainConfig | None = None
    """Tokens to a Megatron checkpoint."""
    convert: ConvertConfig | None = None
    """Megatron checkpoint to a Hugging Face model."""
    instruct: InstructConfig | None = None
    """Seed tasks and a teacher to instruction rows that a person has accepted."""
    finetune: FinetuneConfig | None = None
    """Instruction rows and a model to an adapter."""
    align: AlignConfig | None = None
    """Preference pairs and a model to one that prefers what was chosen."""
    merge: MergeConfig | None = None
    """Adapter and base to one model."""
    evaluate: EvaluateConfig | None = None
    """Models to scores and answers side by side."""
    export: ExportConfig | None = None
    """Model to the layout of transformers 4, GGUF files, a model card and the folder of a hub."""
    serve: ServeConfig | None = None
    """Model to an OpenAI and TGI endpoint."""


@dataclass(frozen=True)
class Project:
    """A recipe, where it came from, and where its artifacts stand."""

    recipe: Recipe
    source: recipes.Source
    place: Place

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages this recipe has, in pipeline order."""
        return self.place.present


@dataclass(frozen=True)
class Row:
    """What became of one stage in a run."""

    stage: str
    status: str
    """``fresh`` or ``done``."""
    path: Path
    seconds: float
    manifest: Manifest
    pretraining: dict[str, float] | None = None
    """Of the corpus: what the recipe's pretraining makes of it."""


def open_project(path: Path, overrides: Sequence[str] = ()) -> Project:
    """Read and validate a recipe. Raises UserError with every problem in it."""
    recipe, source = recipes.load(path, list(overrides), Recipe)
    runs = written_path(recipe.runs_dir).absolute()
    cache = runs / ".cache"
    place = Place(
        recipe_dir=path.absolute().parent,
        run_dir=runs / recipe.name,
        cache_dir=cache,
        stages=STAGES,
        present=tuple(stage for stage in STAGES if getattr(recipe, stage) is not None),
        digests=Digests(cache / "digests.json"),
    )
    return Project(recipe, source, place)


def make_job(project: Project, stage: str) -> Job[Any]:
    """One stage with its inputs resolved as they stand on disk now."""
    section, cluster = getattr(project.recipe, stage), _cluster(project)
    if stage in ON_CLUSTERS and cluster and "ranks" not in section.model_fields_set:
        section = section.model_copy(update={"ranks": cluster.ranks})
    place = project.place
    return Job(
        stage=stage,
        config=section,
        inputs=resolve(stage, section, place),
        seed=project.recipe.seed,
        recipe=project.recipe.name,
        run_dir=place.run_dir,
        cache_dir=place.cache_dir,
        out=place.run_dir / f"{stage}.partial",
        cluster=cluster,
    )


def _cluster(project: Project) -> ClusterConfig | None:
    """The recipe's cluster; its hostfile is looked for beside the recipe, as all files are."""
    cluster = project.recipe.cluster
    if cluster is None or cluster.hostfile is None:
        return cluster
    path = project.place.recipe_dir / written_path(cluster.hostfile)
    return cluster.model_copy(update={"hostfile": str(path)})


def choose(project: Project, first: str | None = None, last: str | None = None) -> tuple[str, ...]:
    """The stages from ``first`` to ``last``, both included."""
    for name in (first, last):
        if name is not None and name not in project.stages:
            raise refuse("RECIPE-007", stage=name, present=", ".join(project.stages) or "-")
    begin = STAGES.index(first) if first else 0
    end = STAGES.index(last) if last else len(STAGES) - 1
    if begin > end:
        raise refuse("RUN-005", first=first, last=last, order=" ".join(STAGES))
    return tuple(stage for stage in project.stages if begin <= STAGES.index(stage) <= end)


def check(project: Project, stages: Sequence[str]) -> list[Problem]:
    """Every problem that can be known before anything runs, each with its place in the recipe. No torch."""
    problems = workplace.writable(project.place.run_dir)
    for stage in stages:
        try:
            job = make_job(project, stage)
            problems += _module(stage, "checks").check(job)
            if not any(p.stage == stage for p in problems):
                problems += workplace.room_for(stage, plan_of(job), project.place.run_dir)
        except UserError as error:
            problems += error.problems
    return [_placed(entry, project.source) for entry in problems]


def _placed(entry: Problem, source: recipes.Source) -> Problem:
    """The problem with the recipe's file and line, where it names a key and no place of its own."""
    if entry.file or not entry.key:
        return entry
    file, line = source.place(tuple(int(k) if k.isdigit() else k for k in entry.key.split(".")))
    return Problem(entry.code, entry.params, entry.stage, entry.key, file, line)


def plan_of(job: Job[Any]) -> Plan:
    plan: Plan = _module(job.stage, "plan").plan(job)
    return plan


def layouts(project: Project, gpus: int | None, gpu_memory: float | None) -> Any:
    """The layouts of the recipe's pretraining that fit ``gpus`` GPUs of ``gpu_memory`` GB; None where none is asked."""
    if gpus is None and gpu_memory is None:
        return None
    if gpus is None or gpu_memory is None:
        raise refuse("PLAN-001", given="--gpus" if gpus else "--gpu-memory")
    [stage] = choose(project, "pretrain", "pretrain")
    return _module(stage, "plan").layouts(make_job(project, stage), gpus, int(gpu_memory * 1e9))


ABOUT_HERE = frozenset(f"serve.{key}" for key in ("host", "port", "keys_file", "key_variable", "remote_key_variable"))
"""Keys whose mistakes are of this machine: a port that is taken, a key that is not set here."""


def kubernetes_manifest(project: Project) -> str:
    """The manifest that serves the recipe's model in Kubernetes. Raises UserError for what can be known here."""
    stages = choose(project, "serve", "serve")
    problems = [entry for entry in check(project, stages) if entry.key not in ABOUT_HERE]
    if problems:
        raise UserError(*problems)
    try:
        text: str = _module("serve", "kubernetes").manifest(make_job(project, "serve"))
    except UserError as error:
        raise UserError(*[_placed(entry, project.source) for entry in error.problems]) from error
    return text


def states(project: Project) -> dict[str, tuple[Job[Any], State]]:
    """For every stage: its job and whether it would run. A stage behind a stale one is stale too."""
    found: dict[str, tuple[Job[Any], State]] = {}
    stale: set[str] = set()
    for stage in project.stages:
        job = make_job(project, stage)
        now = state(job)
        behind = [i.stage for i in job.inputs.values() if i.stage in stale]
        if now.fresh and behind:
            now = State(False, "input_changed", {"role": ", ".join(str(b) for b in behind)})
        if not now.fresh:
            stale.add(stage)
        found[stage] = (job, now)
    return found


def run(project: Project, stages: Sequence[str]) -> list[Row]:
    """Run what is not fresh, in order. Raises UserError before the first stage for all that can be known."""
    problems = check(project, stages)
    if problems:
        raise UserError(*problems)
    place = project.place
    with workplace.locked(place.run_dir):
        for stage in stages:
            recover(place.run_dir / stage)
        try:
            return [replace(_run_stage(project, stage), pretraining=pretraining(project, stage)) for stage in stages]
        finally:
            place.digests.save()


def pretraining(project: Project, stage: str) -> dict[str, float] | None:
    """{"steps", "epochs", "tokens_per_step", "steps_per_epoch"} of the corpus just made, where the recipe trains on it.

    None too where the pretraining as it is asked cannot run: its own check says why.
    """
    if stage != "corpus" or "pretrain" not in project.stages:
        return None
    try:
        job = make_job(project, "pretrain")
        figures = plan_of(job).figures
    except UserError:
        return None
    if job.inputs["corpus"].stage != "corpus":
        return None
    per_step = figures["tokens per step"]
    return {
        "steps": figures["steps"],
        "epochs": figures["epochs"],
        "tokens_per_step": per_step,
        "steps_per_epoch": round(figures["corpus, tokens"] / per_step, 1),
    }


def _run_stage(project: Project, stage: str) -> Row:
    job = make_job(project, stage)
    final = project.place.run_dir / stage
    now = state(job)
    if now.fresh:
        note(say("fresh", stage=stage))
        return Row(stage, "fresh", final, 0.0, workplace.published(final))
    problems = not_ready(job) or _module(stage, "checks").check(job)
    if problems:
        raise UserError(*[_placed(entry, project.source) for entry in problems])
    resumed = workplace.open_partial(job)
    note(
        say("resuming", stage=stage) if resumed else say("starting", stage=stage, reason=say(now.reason, **now.params))
    )
    with workplace.full_disk_is_the_users(stage, job.out):
        manifest = workplace.publish_result(job, _module(stage, "run").run)
    note(say("published", stage=stage, seconds=manifest.seconds, path=final))
    return Row(stage, "done", final, manifest.seconds, manifest)


def not_ready(job: Job[Any]) -> list[Problem]:
    """INPUT-005 for every input whose stage has not run."""
    return [
        problem("INPUT-005", stage=job.stage, key=f"{job.stage}.{role}", ref=found.ref)
        for role, found in job.inputs.items()
        if found.digest is None
    ]


def _module(stage: str, name: str) -> Any:
    if name == "run":
        import logging

        # Imported along, it asks people to install kernels that it does well without.
        logging.getLogger("bitsandbytes").setLevel("ERROR")
    return importlib.import_module(f"easyllm.{stage}.{name}")
