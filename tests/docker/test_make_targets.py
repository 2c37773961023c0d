"""What a make target runs, in the container and on this machine. No engine is needed: make says it, a stub receives it.

The documented commands stand in golden/; after a change that is meant, EASYLLM_WRITE_GOLDEN=1 writes them anew.
"""

import ast
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from easyllm.env import runtime

ROOT = Path(__file__).parent.parent.parent
GOLDEN = Path(__file__).parent / "golden"
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = re.findall(r"^([a-z0-9-]+):.*## ", MAKEFILE, flags=re.MULTILINE)
# A script in place of docker or nvidia-smi, so that what make asks is answered by a real process.
ANSWERS = "#!/bin/sh\nexit 0\n"
SAYS_WHAT_IT_GETS = '#!/bin/sh\nfor a do printf "%s\\n" "$a"; done\n'


def call(*words: str, where: Path = ROOT, **options: object) -> "subprocess.CompletedProcess[str]":
    """The real make in a clean environment, as another user's home would have it."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/home/you", "EASYLLM_LANG": "en"} | options.pop("more", {})
    how = {
        "cwd": where,
        "env": environment,
        "text": True,
        "capture_output": True,
        "stdin": subprocess.DEVNULL,
    } | options
    return subprocess.run(["make", *words], check=False, **how)


def shown(*words: str, where: Path = ROOT) -> str:
    """What ``make -n`` prints, the folder and the user named for what they are."""
    done = call("-n", *words, where=where)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    text = re.sub(r" +$", "", done.stdout, flags=re.MULTILINE).replace(str(where), "<here>")  # an empty ARGS
    return re.sub(rf"--user {os.getuid()}:{os.getgid()} ", "--user <uid>:<gid> ", text)


def put(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for stubs, before everything else on the path."""
    folder = tmp_path / "tools"
    folder.mkdir()
    return folder


def arguments(tools: Path, *words: str, where: Path = ROOT, **more: str) -> list[str]:
    """The words that docker would get from this make call."""
    put(tools, "docker", SAYS_WHAT_IT_GETS)
    path = {"PATH": f"{tools}:{os.environ['PATH']}"} | more
    done = call("-s", "RUNTIME=docker", f"HF_HOME={tools / 'hf'}", *words, where=where, more=path)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("where", ["docker", "local"])
def test_every_target_runs_the_documented_command(where: str) -> None:
    text = "".join(f"$ make {t}\n{shown(f'RUNTIME={where}', t)}\n" for t in TARGETS if t != "help")
    golden = GOLDEN / f"make-{where}.txt"
    if os.environ.get("EASYLLM_WRITE_GOLDEN"):
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")


def test_make_help_names_every_target_and_every_variable() -> None:
    said = call("help").stdout
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)", MAKEFILE, flags=re.MULTILINE)
    assert phony
    assert set(phony[1].replace("\\", " ").split()) == set(TARGETS)
    settings = re.findall(r"^([A-Z_]+) \?=", MAKEFILE, flags=re.MULTILINE)
    assert [name for name in settings if f"\n  {name}=" not in said] == []
    for target in TARGETS:
        assert re.search(rf"^  make {target} +\S", said, flags=re.MULTILINE), target


def test_every_stage_target_is_one_line() -> None:
    recipes = re.findall(r"^(?:[a-z0-9-]+):.*## .*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
    assert [lines for lines in recipes[1:] if lines.count("\n") != 1] == []  # help has two more: its variables


def test_gpus_none_asks_for_no_gpu_and_takes_the_cpu_image() -> None:
    said = shown("RUNTIME=docker", "GPUS=none", "corpus")
    assert "--gpus" not in said
    assert " easyllm-train:cpu easyllm corpus " in said
    assert "CUDA_VISIBLE_DEVICES= .venv/bin/easyllm" in shown("RUNTIME=local", "GPUS=none", "corpus")


def test_gpus_0_1_are_two_devices_and_not_a_number_of_them(tools: Path) -> None:
    got = arguments(tools, "GPUS=0,1", "corpus")
    assert got[got.index("--gpus") + 1] == '"device=0,1"'
    assert "easyllm-train:cuda" in got
    assert "CUDA_VISIBLE_DEVICES=0,1 .venv/bin/easyllm" in shown("RUNTIME=local", "GPUS=0,1", "corpus")


def test_args_reach_the_verb_as_a_shell_would_have_split_them(tools: Path) -> None:
    got = arguments(tools, "corpus", """ARGS='corpus.text_key=my text' name="it's" --json""", "RECIPE=my own.yaml")
    assert got[got.index("easyllm") :] == [
        "easyllm",
        "corpus",
        "my own.yaml",
        "corpus.text_key=my text",
        "name=it's",
        "--json",
    ]


def test_a_folder_with_a_space_is_mounted_whole(tools: Path, tmp_path: Path) -> None:
    here = tmp_path / "my models"
    (here / "inner").mkdir(parents=True)
    (here / "Makefile").write_text(MAKEFILE, "utf-8")
    assert f"{here}:/work" in arguments(tools, "corpus", where=here)
    assert f"{here}/inner:/work" in arguments(tools, "WORK=inner", "corpus", where=here)
    assert 'cd "inner" && "<here>"/.venv/bin/easyllm' in shown("RUNTIME=local", "WORK=inner", "corpus", where=here)


def test_a_key_travels_by_name_and_is_in_no_command_line(tools: Path) -> None:
    got = arguments(
        tools, "self-instruct", "PASS_ENV=TEACHER_KEY", OPENAI_API_KEY="sk-1", TEACHER_KEY="sk-2", HF_TOKEN="sk-3"
    )
    passed = {got[i + 1] for i, word in enumerate(got) if word == "-e"}
    assert {"OPENAI_API_KEY", "TEACHER_KEY", "HF_TOKEN"} <= passed
    assert "sk-" not in " ".join(got)
    assert {"EASYLLM_LANG", "LC_ALL", "LC_MESSAGES", "LANG"} <= passed  # the container speaks the user's language


def test_a_machine_that_may_not_lock_memory_says_so_in_one_variable() -> None:
    assert "memlock" not in shown("RUNTIME=docker", "MEMLOCK=", "corpus")


@pytest.mark.parametrize(("target", "piped", "typed"), [("corpus", "", "-it "), ("chat", "-i ", "-it ")])
def test_a_terminal_is_given_where_make_has_one(target: str, piped: str, typed: str) -> None:
    def flags(text: str) -> str:
        return re.findall(r"--init (.*?)--pull", text)[0]

    assert flags(shown("RUNTIME=docker", target)) == piped
    ours, theirs = pty.openpty()
    done = call("-n", "RUNTIME=docker", target, stdin=theirs, stdout=theirs, stderr=theirs, capture_output=False)
    assert done.returncode == 0
    assert flags(os.read(ours, 10_000).decode()) == typed
    os.close(ours)
    os.close(theirs)


def test_a_runtime_that_does_not_exist_is_refused() -> None:
    done = call("-n", "RUNTIME=podman", "corpus")
    assert done.returncode == 2
    assert "RUNTIME=podman must be docker or local" in done.stderr


def test_only_a_target_that_runs_something_asks_for_the_engine(tools: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    put(tools, "docker", f'#!/bin/sh\necho "$@" >> {asked}\nexit 1\n')
    path = {"PATH": f"{tools}:{os.environ['PATH']}"}
    for target in ("help", "setup", "build", "lint", "test", "test-docker", "clean", "doctor"):
        assert call("-n", target, more=path).returncode == 0
    assert not asked.exists()
    done = call("-n", "corpus", "merge", more=path)
    assert done.stdout.count(".venv/bin/easyllm") == 2
    assert len(done.stderr.splitlines()) == 1  # asked once, told once
    assert len(asked.read_text().splitlines()) == 1


NO_ENGINE = "#!/bin/sh\necho first >&2\necho 'permission denied while trying to connect' >&2\nexit 1\n"
NO_IMAGE = '#!/bin/sh\ntest "$1" != image\n'
ONE_GPU = "#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n"


@pytest.mark.parametrize(
    ("docker", "nvidia_smi", "gpus", "where", "why"),
    [
        (None, ONE_GPU, "all", "local", "no Docker here"),
        (NO_ENGINE, ONE_GPU, "all", "local", "does not answer (permission denied while trying to connect)"),
        (ANSWERS, None, "all", "local", "no NVIDIA GPU here"),
        (ANSWERS, "#!/bin/sh\nexit 9\n", "all", "local", "no NVIDIA GPU here"),
        (NO_IMAGE, ONE_GPU, "all", "local", "the image easyllm-train:cuda is not built (make build)"),
        (NO_IMAGE, None, "none", "local", "the image easyllm-train:cpu is not built (make build)"),
        (ANSWERS, ONE_GPU, "0,1", "docker", ""),
        (ANSWERS, None, "none", "docker", ""),
    ],
)
def test_runtime_is_docker_where_all_is_there_and_else_says_in_one_line_why_not(
    tools: Path, docker: str | None, nvidia_smi: str | None, gpus: str, where: str, why: str
) -> None:
    for name, script in (("docker", docker), ("nvidia-smi", nvidia_smi)):
        if script:
            put(tools, name, script)
    for name in ("make", "sh", "id", "python3", "mkdir"):  # nothing else of this machine is on the path
        found = subprocess.run(["sh", "-c", f"command -v {name}"], capture_output=True, text=True, check=True)
        (tools / name).symlink_to(sys.executable if name == "python3" else found.stdout.strip())
    done = call("-n", f"GPUS={gpus}", "corpus", more={"PATH": str(tools)})
    assert done.returncode == 0, done.stderr
    assert ("docker run " in done.stdout) == (where == "docker")
    assert done.stderr.count("\n") == (1 if why else 0), done.stderr
    assert why in done.stderr


def test_a_hung_engine_does_not_hang_make(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tools, "docker", "#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(runtime, "SECONDS", 0.5)
    where, reason, detail = runtime.choose("all", "easyllm-train:cuda")
    assert (where, reason) == ("local", "no_engine")
    assert "timed out" in detail


def test_the_reason_is_told_in_chinese_too(monkeypatch: pytest.MonkeyPatch) -> None:
    english, chinese = (runtime.TEXTS[language] for language in ("en", "zh"))
    assert list(english) == list(chinese)
    for name in english:
        assert re.findall(r"\{\w+\}", english[name]) == re.findall(r"\{\w+\}", chinese[name])
    for variable, value, first in (("LANG", "zh_CN.UTF-8", "在"), ("EASYLLM_LANG", "en", "r")):
        monkeypatch.delenv("EASYLLM_LANG", raising=False)
        monkeypatch.setenv(variable, value)
        assert runtime.sentence("no_image", "easyllm-train:cuda")[0] == first


def test_the_choice_is_made_by_any_python_3() -> None:
    ast.parse(Path(runtime.__file__).read_text("utf-8"), feature_version=(3, 6))
