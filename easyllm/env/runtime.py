"""Where the Makefile's targets run: ``python3 easyllm/env/runtime.py GPUS IMAGE`` prints ``docker`` or ``local``.

Docker, where its engine answers, a GPU is here (or GPUS=none says that none is wanted) and the image is built.
Otherwise the local environment, with one line on stderr that says why.
"""

# Runs under any Python 3.6 or newer, before the right one is found: keep the syntax old.
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SECONDS = 10
"""Longest wait for a docker command: a hung engine must not hang `make`."""
# The catalogue of core/messages needs Python 3.11.
TEXTS = {
    "en": {
        "no_docker": "no Docker here",
        "no_engine": "Docker's engine does not answer ({detail})",
        "no_gpu": "no NVIDIA GPU here (GPUS=none takes the CPU image)",
        "no_image": "the image {detail} is not built (make build)",
        "local": "running in .venv: {why}. RUNTIME=docker or RUNTIME=local decides it.",
    },
    "zh": {
        "no_docker": "本机没有 Docker",
        "no_engine": "Docker 引擎没有应答（{detail}）",
        "no_gpu": "本机没有 NVIDIA GPU（GPUS=none 使用 CPU 镜像）",
        "no_image": "镜像 {detail} 尚未构建（make build）",
        "local": "在 .venv 中运行：{why}。可用 RUNTIME=docker 或 RUNTIME=local 指定。",
    },
}


def choose(gpus: str, image: str) -> "tuple[str, str, str]":
    """("docker", "", "") or ("local", the name of the reason, its detail)."""
    if shutil.which("docker") is None:
        return "local", "no_docker", ""
    silent = docker("version", "--format", "{{.Server.Version}}")
    if silent is not None:
        return "local", "no_engine", silent
    if gpus != "none" and not has_gpu():
        return "local", "no_gpu", ""
    if docker("image", "inspect", "--format", "{{.Id}}", image) is not None:
        return "local", "no_image", image
    return "docker", "", ""


def docker(*arguments: str) -> "str | None":
    """None where the command succeeds, else the last line of what it says."""
    command = ["docker", *arguments]
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error).splitlines()[0]
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return None if done.returncode == 0 else (said[-1] if said else str(done.returncode))


def has_gpu() -> bool:
    sys.path.insert(0, ROOT)  # run as a script, this folder is on the path and easyllm is not
    from easyllm.env.bootstrap import has_gpu as found

    return found()


def language() -> str:
    """The language of easyllm.core.messages, for a Python that cannot read its catalogue."""
    said = [os.environ.get(name) for name in ("EASYLLM_LANG", "LC_ALL", "LC_MESSAGES", "LANG")]
    return "zh" if ([value for value in said if value] or [""])[0].lower().startswith("zh") else "en"


def sentence(reason: str, detail: str) -> str:
    texts = TEXTS[language()]
    return texts["local"].format(why=texts[reason].format(detail=detail))


def main() -> None:
    gpus, image = sys.argv[1:]
    runtime, reason, detail = choose(gpus, image)
    if reason:
        print(sentence(reason, detail), file=sys.stderr)
    print(runtime)


if __name__ == "__main__":
    main()
