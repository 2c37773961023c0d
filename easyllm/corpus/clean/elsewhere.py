"""Cleaning that Slurm or Ray does: the program that hands datatrove's blocks to them, and how far they are."""

import json
import sys
from pathlib import Path
from string import Template

from easyllm.core.artifact import write_whole
from easyllm.core.cluster import ClusterConfig, Slurm
from easyllm.core.errors import Waiting
from easyllm.core.messages import say
from easyllm.core.shell import line
from easyllm.core.stage import Job
from easyllm.corpus.clean.cleaning import Cleaning, home_of, logs_of
from easyllm.corpus.config import CorpusConfig

PROGRAM = "clean.py"
LAUNCHERS = ("slurm", "ray")
"""Those that datatrove has an executor for; under the others the corpus is cleaned here."""


def elsewhere(job: Job[CorpusConfig]) -> bool:
    """Whether somebody else than easyllm cleans this corpus."""
    return job.config.clean is not None and job.cluster is not None and job.cluster.launcher in LAUNCHERS


def command(job: Job[CorpusConfig]) -> str:
    """What starts the cleaning, once ``easyllm corpus`` has prepared it."""
    python = job.cluster.python if job.cluster and job.cluster.python else sys.executable
    return line([python, str(job.out / PROGRAM)])


def await_passes(job: Job[CorpusConfig], cleaning: Cleaning) -> None:
    """Return once others have cleaned; until then Waiting says what to start, or how far it is."""
    from easyllm.corpus.clean.passes import Pass, passes

    steps = passes(cleaning)

    def complete(step: Pass) -> int:
        return len(list((logs_of(cleaning, step.name) / "completions").glob("*")))

    done, tasks = sum(map(complete, steps)), sum(step.tasks for step in steps)
    if done == tasks:
        (job.out / PROGRAM).unlink(missing_ok=True)
        return
    assert job.cluster is not None
    listed = [(step.name, step.tasks, " > ".join(type(block).__name__ for block in step.blocks)) for step in steps]
    write_whole(job.out / PROGRAM, program(job.cluster, job.recipe, home_of(job.out).name, listed))
    told = "cleaning_handed_over" if not done else "cleaning_under_way"
    raise Waiting(say(told, path=job.out, done=done, tasks=tasks), [command(job)])


def program(cluster: ClusterConfig, recipe: str, home: str, steps: list[tuple[str, int, str]]) -> str:
    """A program that a person can read and change; ``steps`` are (name, tasks, blocks) of the passes."""
    fill = {
        "recipe": recipe,
        "executor": cluster.launcher.capitalize(),
        "table": "\n".join(f"  {name:<14} {tasks:>5} tasks  {blocks}" for name, tasks, blocks in steps),
        "home": home,
    }
    more = _slurm(cluster, recipe) if cluster.launcher == "slurm" else _ray(cluster)
    return Template(PROGRAM_TEXT).substitute(fill | more)


PROGRAM_TEXT = '''"""Cleans the corpus of $recipe with datatrove on $executor. Every pass waits for the one before:

$table

The blocks, their settings and the files stand in $home/cleaning.json. Started again, this does
what is not complete; then `easyllm corpus` goes on with the documents that are left.
"""

from pathlib import Path

$imports

from easyllm.corpus.clean.cleaning import logs_of, read_cleaning
from easyllm.corpus.clean.passes import passes

cleaning = read_cleaning(Path(__file__).absolute().parent / "$home")
last = None
for step in passes(cleaning):
    last = ${executor}PipelineExecutor(
        pipeline=step.blocks,
        tasks=step.tasks,
        logging_dir=str(logs_of(cleaning, step.name)),
        depends=last,
$settings    )
$start
'''


def _slurm(cluster: ClusterConfig, recipe: str) -> dict[str, str]:
    asked = cluster.slurm or Slurm()
    options = {key: value for key in ("account", "constraint") if (value := getattr(asked, key))}
    for option in asked.options:
        name, _, value = option.removeprefix("--").partition("=")
        options[name] = value
    # datatrove starts its launch_pickled_pipeline by name
    setup = [*asked.setup, f"export PATH={Path(cluster.python or sys.executable).parent}:$PATH"]
    return {
        "imports": "from datatrove.executor.slurm import SlurmPipelineExecutor",
        "settings": f"""        job_name={_text(f"easyllm-{recipe}-")} + step.name,
        partition={_text(str(asked.partition))},
        time={_text(str(asked.time))},
        qos=None,
        sbatch_args={_text(options)},
        env_command={_text(chr(10).join(setup))},
""",
        "start": "last.run()  # submits those before it first",
    }


def _ray(cluster: ClusterConfig) -> dict[str, str]:
    address = cluster.ray.address if cluster.ray else "auto"
    return {
        "imports": "import ray\nfrom datatrove.executor.ray import RayPipelineExecutor",
        "settings": "",
        "start": f"ray.init(address={_text(address)})\nlast.run()  # runs those before it first",
    }


def _text(value: object) -> str:
    """A string or a table of strings as Python writes it, in double quotes."""
    return json.dumps(value, ensure_ascii=False)
