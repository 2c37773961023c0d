"""What the container tests share: an engine, a clean checkout owned by an ordinary user, and images built from it once.

Everything is what a user would do: the checkout's own ``make`` builds, trains and merges in it, and ``docker compose``
serves what came out. Only the base images are stand-ins (engine.py), and apex is a stub of a few lines.
"""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_house import STANDIN, Build, Done, Engine, House, Images, call

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ENGINE = HERE / "engine.py"
STANDIN_PYTHON = "3.11"  # whose torch wheel the stand-in needs
ANY_UID = 4242  # nobody in any image: a user is whoever calls


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The user's engine where one answers, else our own; stopped at the end where we started it."""
    program = [sys.executable, str(ENGINE)]
    up = subprocess.run([*program, "up"], capture_output=True, text=True, check=False)
    sys.stderr.write(up.stderr)
    if up.returncode:
        missing = (up.stderr.strip().splitlines() or ["engine.py failed"])[-1]
        if os.environ.get("CI"):
            pytest.fail(f"no Docker engine: {missing}")
        pytest.skip(f"no Docker engine: {missing}")
    yield engine_of(program)
    if up.stdout.strip() == "started":
        subprocess.run([*program, "down"], check=True)


def engine_of(program: list[str]) -> Engine:
    lines = subprocess.run([*program, "env"], capture_output=True, text=True, check=True).stdout.splitlines()
    exports = dict(shlex.split(line)[1].split("=", 1) for line in lines)
    return Engine({**os.environ, **exports, "EASYLLM_LANG": "en"})


@pytest.fixture(scope="session")
def gpu_flags(engine: Engine) -> None:
    """Skips where the engine refuses ``--gpus``: the user's own, without nvidia's toolkit."""
    if not engine.can("--gpus", "all"):
        pytest.skip("this engine has no nvidia runtime, so the GPU flags cannot be tried; our own engine has a stub")


@pytest.fixture(scope="session")
def house(engine: Engine) -> Iterator[House]:
    """The files that git knows or would take, committed in a fresh repository: a clean clone with today's changes."""
    place = Path(tempfile.mkdtemp(prefix="easyllm-house-"))
    place.chmod(0o755)  # pytest's own folders are closed to every other user
    folder = place / "easy llm"  # a path with a space, as users have them
    listed = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    commit_all(folder)
    uid = ANY_UID if os.geteuid() == 0 else os.geteuid()
    (place / "home").mkdir()
    (place / "bin").mkdir()
    if os.geteuid() == 0:
        # programs are looked for with access(2), which forgets the capability that as_user gives
        shutil.copy2(shutil.which("docker", path=engine.environment["PATH"]) or "", place / "bin" / "docker")
        call(["chown", "-R", f"{uid}:{uid}", str(folder), str(place / "home")], engine.environment)
    environment = engine.environment | {
        "HOME": str(place / "home"),
        "PATH": f"{place / 'bin'}:{Path(sys.executable).parent}:{engine.environment['PATH']}",
        "COMPOSE_PROJECT_NAME": f"easyllm-test-{os.getpid()}",
        "PORT": str(free_port()),
    }
    for name in ("HF_HOME", "COMPOSE_FILE", "MODEL", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
        environment.pop(name, None)  # what the caller's own make or shell has set is not this user's
    variables = () if engine.can("--ulimit", "memlock=-1") else ("MEMLOCK=",)
    found = House(folder, engine, environment, uid, variables)
    yield found
    found.run("docker", "compose", "down", "--timeout", "5", expect=None)
    shutil.rmtree(place, ignore_errors=True)


def commit_all(folder: Path) -> None:
    """With a fixed author and date: the same files are the same commit, and what was built from them is found again."""
    who = {"NAME": "test", "EMAIL": "test@localhost", "DATE": "2000-01-01T00:00:00Z"}
    names = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
    environment = os.environ | names | {"GIT_CONFIG_GLOBAL": os.devnull}
    git = ["git", "-C", str(folder), "-c", "init.defaultBranch=main", "-c", "core.fsync=none"]
    for words in (["init", "-q"], ["add", "-A", "-f"], ["commit", "-q", "-m", "the checkout under test"]):
        call([*git, *words], environment)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of local wheels: torch for the stand-in's Python, from wherever this machine's pip takes it."""
    folder = tmp_path_factory.mktemp("wheels")
    pin = next(line for line in (ROOT / "docker/versions.env").read_text().splitlines() if line.startswith("PY_TORCH="))
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    call([*download, "--python-version", STANDIN_PYTHON, f"torch=={pin.partition('=')[2]}"], dict(os.environ))
    return folder


@pytest.fixture(scope="session")
def build(house: House, wheels: Path) -> Build:
    """``build("cuda", "--plan")``: the real ``make build``, offline bases and apex in place of what nobody may pull."""

    def run(variant: str, *options: str, expect: int | None = 0) -> Done:
        places = {
            f"compilers-{variant}": f"docker-image://{STANDIN}",
            f"runtime-{variant}": f"docker-image://{STANDIN}",
            "wheels": shlex.quote(str(wheels)),
            "apex-src": "tests/docker/stub_apex",
        }
        contexts = [f"--context={name}={place}" for name, place in places.items()]
        standin = ["--standin"] if variant == "cuda" else []
        return house.build("--variant", variant, *standin, *contexts, *options, expect=expect)

    return run


@pytest.fixture(scope="session")
def images(engine: Engine, house: House, build: Build) -> Iterator[Images]:
    """The GPU images, built from the checkout; a user's own images of the same names come back afterwards."""
    names = [f"easyllm-{target}:{variant}" for target in ("train", "serving") for variant in ("cuda", "cpu")]
    before = {name: engine.docker("image", "inspect", "-f", "{{.Id}}", name, expect=None) for name in names}
    said = build("cuda").stdout
    yield Images("easyllm-train:cuda", "easyllm-serving:cuda", said)
    for name, found in before.items():
        if found.returncode == 0:
            engine.docker("tag", found.stdout.strip(), name)


@pytest.fixture(scope="session")
def pretrained(house: House, images: Images, gpu_flags: None) -> House:
    """The checkout after ``make corpus`` and ``make pretrain-megatron`` in the container."""
    house.stage("corpus")
    house.stage("pretrain-megatron")
    return house


@pytest.fixture(scope="session")
def merged(pretrained: House) -> House:
    """... and after ``make convert self-instruct finetune-lora merge``: runs/ holds a model to serve."""
    pretrained.stage("convert", "self-instruct", "finetune-lora", "merge")
    return pretrained
