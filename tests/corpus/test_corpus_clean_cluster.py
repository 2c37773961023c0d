"""Cleaning on Slurm and Ray: a program that a person can read, which runs without easyllm's command line."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.cluster import ClusterConfig
from easyllm.corpus.clean.elsewhere import program

GOLDEN = Path(__file__).parent / "golden"
STEPS = [("filter", 40, "Documents > LengthFilter > JsonlWriter"), ("write", 40, "Filtered > JsonlWriter")]
CLUSTERS: dict[str, dict[str, Any]] = {
    "slurm": {
        "launcher": "slurm",
        "python": "/opt/easyllm/bin/python",
        "slurm": {
            "partition": "cpu",
            "time": "4:00:00",
            "account": "lab",
            "options": ["--exclude=node7", "--exclusive"],
            "setup": ["module load gcc"],
        },
    },
    "ray": {"launcher": "ray", "ray": {"address": "ray://head:10001"}},
}


@pytest.mark.parametrize("launcher", CLUSTERS)
def test_the_program_is_the_one_we_have_read(launcher: str) -> None:
    text = program(ClusterConfig.model_validate(CLUSTERS[launcher]), "mine", ".clean", STEPS)
    compile(text, "clean.py", "exec")
    assert text == (GOLDEN / f"clean-{launcher}.py").read_text("utf-8")


SBATCH = r"""#!/bin/bash
# Stands in for Slurm: runs every task of the array at once, one after the other, and fails where one does.
file="${@: -1}"
grep -q "^merge_stats" "$file" && echo "Submitted batch job 2" && exit  # sums of statistics, which nothing reads
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$file")
for task in $(seq 0 "$last"); do
    SLURM_ARRAY_TASK_ID=$task SLURM_NODELIST=here SLURM_JOB_ID=1 bash "$file" >> "$STANDIN/sbatch.log" 2>&1 || exit 1
done
echo "Submitted batch job 1"
"""
SRUN = '#!/bin/bash\nwhile [[ $1 == -* ]]; do [[ $1 == -n ]] && shift; shift; done\nexec "$@"\n'


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of stand-ins for Slurm's commands, which are first on the PATH."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", "#!/bin/bash\necho here\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("STANDIN", str(folder))
    return folder


def write_recipe(folder: Path) -> None:
    """Two sources with an equal document in each; one more is too short."""
    for name, texts in (("a", ["one two three", "灯塔看守人", "four"]), ("b", ["one two three", "five six seven"])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text * 9}) + "\n" for text in texts))
    sources = [{"source": [f"{name}.jsonl"], "weight": 1, "name": name} for name in "ab"]
    corpus = {
        "input": sources,
        "clean": {"length": {"min_characters": 40}, "exact_duplicates": True},
        "tokenizer": {"train": {"vocab_size": 260}},
    }
    (folder / "r.yaml").write_text(json.dumps({"name": "r", "corpus": corpus}))


@pytest.fixture
def recipe(tmp_path: Path) -> None:
    write_recipe(tmp_path)


@pytest.fixture(scope="module")
def cleaned_here(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the corpus that easyllm cleaned by itself."""
    folder = tmp_path_factory.mktemp("here")
    write_recipe(folder)
    subprocess.run([sys.executable, "-m", "easyllm", "corpus", "r.yaml"], cwd=folder, check=True, timeout=500)
    return digest(folder / "runs/r")


def digest(runs: Path) -> str:
    return str(json.loads((runs / "corpus" / "manifest.json").read_text())["digest"])


SLURM = ("cluster.launcher=slurm", "cluster.slurm.partition=cpu", "cluster.slurm.time=1-00")


def test_slurm_cleans_what_easyllm_has_prepared_and_then_it_goes_on_as_if_it_had_itself(
    tmp_path: Path, easyllm: Any, recipe: None, slurm: Path, cleaned_here: str
) -> None:
    planned = easyllm("plan", "r.yaml", *SLURM).stdout
    prepared = easyllm("corpus", "r.yaml", *SLURM, expect=3)
    (command,) = re.findall(r"^  \$ (.*)$", prepared.stdout, re.MULTILINE)
    assert command in planned
    assert command.endswith("/runs/r/corpus.partial/clean.py")
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr + (slurm / "sbatch.log").read_text()
    script = next(tmp_path.glob("runs/r/corpus.partial/.clean-*/logs/exact-find/launch_script.slurm")).read_text()
    assert "#SBATCH --partition=cpu\n" in script
    assert "launch_pickled_pipeline" in script
    easyllm("corpus", "r.yaml", *SLURM)
    report = json.loads((tmp_path / "runs/r/corpus/report.json").read_text())["cleaning"]
    assert [(row["name"], row["read"], row["kept"]) for row in report["sources"]] == [("a", 3, 2), ("b", 2, 1)]
    assert not (tmp_path / "runs/r/corpus/clean.py").exists()
    assert digest(tmp_path / "runs/r") == cleaned_here
    assert "fresh" in easyllm("corpus", "r.yaml").stderr  # where it was cleaned changes nothing


def test_half_done_cleaning_says_how_far_it_is_and_ray_s_program_does_the_same_with_another_executor(
    tmp_path: Path, easyllm: Any, recipe: None, cleaned_here: str
) -> None:
    """Ray itself is not here; datatrove's local executor takes its place in the very program."""
    easyllm("corpus", "r.yaml", "cluster.launcher=ray", expect=3)
    path = tmp_path / "runs/r/corpus.partial/clean.py"
    text = path.read_text("utf-8")
    local = re.sub(r"^ *(import ray|ray\.init.*)\n", "", text, flags=re.MULTILINE)
    local = local.replace("datatrove.executor.ray", "datatrove.executor.local").replace("RayP", "LocalP")
    local = local.replace("tasks=step.tasks,", "tasks=step.tasks, workers=1,")
    path.write_text(local)
    first = "passes(cleaning)[:1]"
    half = path.with_name("half.py")
    half.write_text(local.replace("passes(cleaning)", first))
    for file, code in ((half, 3), (path, 0)):
        done = subprocess.run([sys.executable, file], capture_output=True, text=True, check=False, timeout=500)
        assert done.returncode == 0, done.stderr
        half.unlink(missing_ok=True)
        told = easyllm("corpus", "r.yaml", "cluster.launcher=ray", expect=code)
        if code == 3:
            assert "2 of 7 tasks are complete" in told.stdout
            path.write_text(local)
    assert digest(tmp_path / "runs/r") == cleaned_here


def test_another_launcher_leaves_the_cleaning_here(easyllm: Any, recipe: None) -> None:
    told = easyllm("plan", "r.yaml", "cluster.launcher=torchrun").stdout
    assert "cleaned by = local: datatrove runs on Slurm and Ray, and on no other launcher" in told
