"""DeepSpeed's compiled parts: made once before any rank starts, and never inside a rank.

Left to itself DeepSpeed compiles when a rank first needs an op: every rank of a node waits for the one that got the
lock, and for ever where a killed compilation left it behind. Here the op is compiled in a folder of its own, in one
process, and appears under its name when it is whole; there is no lock to wait for. What an image has prebuilt is
taken from there.
"""

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from hashlib import sha256
from importlib.metadata import version
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from easyllm.core.artifact import sync_directory
from easyllm.core.errors import failed, refuse
from easyllm.core.messages import say
from easyllm.core.models import quiet_deepspeed
from easyllm.core.progress import note, progress

OP = "cpu_adam"
COMPILES_SECONDS = 105
"""CPU seconds that it took on the machine where it was measured: two files of C++, one after the other."""
ACCELERATOR = "DS_ACCELERATOR"
"""The environment's name for what DeepSpeed takes the machine for; left alone it warns, or takes a GPU it may not."""


def prebuild(cache: Path, device: str, stage: str = "pretrain") -> Path | None:
    """The compiled CPU Adam below ``cache``; None where DeepSpeed's own package has it, as in the image.

    ``stage`` is who needs it. UserError without a C++ compiler; StageFailed where it does not compile.
    """
    if _run(["look"], device, stage)["prebuilt"]:
        return None
    home = cache / "ops" / _key(device)
    library = home / OP / f"{OP}.so"
    if library.is_file():
        return library
    compiler = os.environ.get("CXX") or "c++"
    if shutil.which(compiler) is None:
        raise refuse("PRETRAIN-078", stage=stage, key=f"{stage}.deepspeed.offload_optimizer", compiler=compiler)
    home.parent.mkdir(parents=True, exist_ok=True)
    _sweep(home.parent)
    place = home.parent / f".{platform.node()}.{os.getpid()}"
    note(say("compiling_op", op=OP, place=home))
    shutil.rmtree(place, ignore_errors=True)
    try:
        _run(["build", str(place)], device, stage)
        if not library.is_file():  # another run may have been first
            os.rename(place, home)
            sync_directory(home.parent)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return library


def imported(device: str, library: Path | None) -> Any:
    """The module ``deepspeed`` in a rank on ``device``, with the prebuilt op and without a way to compile another."""
    _quietly(device)
    import deepspeed
    import deepspeed.comm.torch
    import deepspeed.runtime.bf16_optimizer
    from deepspeed.ops.op_builder.builder import OpBuilder

    # It prints how much memory there is, on every rank, as bf16 with ZeRO 1 begins (see_memory_usage, force=True).
    deepspeed.runtime.bf16_optimizer.see_memory_usage = lambda *_, **__: None
    OpBuilder.jit_load = _never
    if library is not None:
        OpBuilder._loaded_ops[OP] = _module(library)
    # For inference on CPUs only, and compiled without asking. The package's attribute of that name is another module.
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    return deepspeed


def _never(builder: Any, verbose: bool = False) -> Any:
    raise RuntimeError(f"DeepSpeed wants to compile {builder.name} inside a rank: it was not prebuilt")


def _module(library: Path) -> Any:
    spec = importlib.util.spec_from_file_location(OP, library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _quietly(device: str) -> None:
    if device == "cpu":
        os.environ[ACCELERATOR] = "cpu"
    quiet_deepspeed()


def _key(device: str) -> str:
    """Changes with everything that a compiled op depends on; the processor too, for it is compiled for that."""
    software = [version("deepspeed"), version("torch"), platform.python_version(), device]
    parts = [*software, platform.machine(), _processor()]
    return f"{OP}-{sha256(' '.join(parts).encode()).hexdigest()[:16]}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8", "replace").splitlines() if info.is_file() else []
    return next((line for line in lines if line.startswith("flags")), platform.processor())


def _sweep(folder: Path) -> None:
    """Take away what a compilation left that was killed on this machine."""
    import psutil

    for place in folder.glob(f".{platform.node()}.*"):
        pid = place.name.rpartition(".")[2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            note(say("stale_compilation", place=place))
            shutil.rmtree(place, ignore_errors=True)


def _run(arguments: list[str], device: str, stage: str) -> dict[str, Any]:
    """This module as a program of its own: DeepSpeed takes a machine for one kind once a process."""
    command = [sys.executable, "-W", "ignore", "-m", "easyllm.core.deepspeed_ops", *arguments]
    environment = os.environ | ({ACCELERATOR: "cpu"} if device == "cpu" else {})
    with TemporaryFile("w+", encoding="utf-8", errors="replace") as words:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=words, stderr=subprocess.STDOUT
        )
        try:
            code = _with_bar(process) if arguments[0] == "build" else process.wait()
        finally:
            process.kill()
        words.seek(0)
        lines = words.read().splitlines()
    if code:
        key = f"{stage}.deepspeed.offload_optimizer"
        raise failed("PRETRAIN-079", stage=stage, key=key, op=OP, code=code, log="\n".join(lines[-20:]))
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _with_bar(process: "subprocess.Popen[bytes]") -> int:
    """Its exit code; the compiler says nothing on its way, so the bar shows the time beside what it took here."""
    with progress("compiling", COMPILES_SECONDS, "seconds") as bar:
        for second in count(1):
            try:
                return process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                if second < COMPILES_SECONDS:
                    bar.advance(1)
    raise AssertionError("unreachable")


def _main(verb: str, place: str | None = None) -> None:
    from deepspeed.accelerator import get_accelerator
    from deepspeed.git_version_info import accelerator_name, installed_ops
    from deepspeed.ops.op_builder import CPUAdamBuilder

    if verb == "build":
        assert place is not None
        os.environ["TORCH_EXTENSIONS_DIR"] = place
        CPUAdamBuilder().jit_load(verbose=False)
    prebuilt = bool(installed_ops.get(OP)) and accelerator_name == get_accelerator()._name
    print(json.dumps({"prebuilt": prebuilt}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
