"""A stage in a process of its own that dies by SIGKILL at a moment which a test names, all of its family with it."""

import functools
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

MOMENT = "EASYLLM_TEST_DIES_AT"
HERE = Path(__file__).parent
PROGRAM = "import dying, json, sys; dying.run(*json.loads(sys.argv[1]))"
CUSTOMIZE = "import dying; dying.at_renames()"


def publish_and_die(folder: Path, stage: str, config: dict[str, Any], rename: str = "", call: str = "") -> None:
    """Run the stage until a file or folder is about to get a name with ``rename`` in it, in whatever process.

    Or until ``call``, "module:function:number": that call is done, but of the files it was told of only half is left.
    """
    customize = folder / "customize"
    customize.mkdir(exist_ok=True)
    (customize / "sitecustomize.py").write_text(CUSTOMIZE, "utf-8")
    path = os.pathsep.join([str(customize), str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    asked = json.dumps([str(folder), stage, config, call])
    environment = os.environ | {"PYTHONPATH": path, MOMENT: rename or call}
    died = subprocess.run([sys.executable, "-c", PROGRAM, asked], env=environment, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()[-3000:]


def run(folder: str, stage: str, config: dict[str, Any], call: str) -> None:
    """In the process that shall die."""
    import tiny_tune

    if call:
        _at_call(*call.split(":"))
    tiny_tune.publish(tiny_tune.make_job(Path(folder), stage, config))


def at_renames() -> None:
    """In that process and in all that it starts."""
    moment = os.environ.get(MOMENT)
    if not moment:
        return

    def watched(known: Any) -> Any:
        @functools.wraps(known)
        def call(source: Any, target: Any, *others: Any, **named: Any) -> None:
            if moment in os.path.basename(os.fspath(target)):
                _die()
            known(source, target, *others, **named)

        return call

    os.replace, os.rename = watched(os.replace), watched(os.rename)


def _at_call(module: str, name: str, number: str) -> None:
    found = importlib.import_module(module)
    known, calls = getattr(found, name), []

    def call(*arguments: Any, **named: Any) -> Any:
        made = known(*arguments, **named)
        calls.append(name)
        if len(calls) == int(number):
            for file in [Path(a) for a in arguments if isinstance(a, (str, Path)) and Path(a).is_file()]:
                os.truncate(file, file.stat().st_size // 2)
            _die()
        return made

    setattr(found, name, call)


def _die() -> None:
    """Whoever the test started, everything that descends from it, and this process: all at once."""
    first = psutil.Process()
    for above in psutil.Process().parents():
        if MOMENT not in above.environ():
            break
        first = above
    for process in [first, *first.children(recursive=True)]:
        if process.pid != os.getpid():
            process.kill()
    os.kill(os.getpid(), signal.SIGKILL)
