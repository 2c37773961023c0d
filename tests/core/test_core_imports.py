"""Arrows go cli -> pipeline -> stages -> core, and what needs no torch loads none."""

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from easyllm.pipeline import STAGES

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "easyllm"
HEAVY = ("torch", "transformers", "megatron", "numpy", "matplotlib", "peft", "tokenizers")


def imported(path: Path) -> set[str]:
    """Every module that the file imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_itself_and_core_and_no_other_stage(stage: str) -> None:
    for path in (PACKAGE / stage).rglob("*.py"):
        for name in imported(path):
            if name.startswith("easyllm.") and name != "easyllm.__version__":
                room = name.split(".")[1]
                assert room in (stage, "core", "recipes"), f"{path.relative_to(ROOT)} imports {name}"


def test_core_imports_no_stage_and_no_pipeline() -> None:
    for path in (PACKAGE / "core").rglob("*.py"):
        rooms = {name.split(".")[1] for name in imported(path) if name.startswith("easyllm.")}
        assert not rooms & {*STAGES, "pipeline", "cli", "env"}, path.relative_to(ROOT)


def modules_after(*arguments: str) -> set[str]:
    """Top-level modules loaded once the command is done."""
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['easyllm', *{list(arguments)!r}]\n"
        "try: runpy.run_module('easyllm', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('MODULES', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rsplit("MODULES", 1)[1].split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("recipe", "ls"),
        ("recipe", "schema"),
        ("doctor",),
        ("check", "tiny-cpu"),
        ("plan", "tiny-cpu"),
    ],
    ids=" ".join,
)
def test_torch_is_never_loaded_where_it_is_not_needed(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not modules_after(*arguments) & set(HEAVY)


def test_importing_easyllm_loads_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import easyllm; print(len(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 1


def cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_help_stays_under_a_fifth_of_a_cpu_second() -> None:
    """CPU time, not wall time, best of five: a busy machine does not change it much."""
    costs = []
    for _ in range(5):
        before = cpu_seconds_of_children()
        subprocess.run([sys.executable, "-m", "easyllm", "--help"], stdout=subprocess.DEVNULL, check=True)
        costs.append(cpu_seconds_of_children() - before)
    assert min(costs) < 0.2
