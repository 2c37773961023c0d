"""The passport of an image: what it was built from, what it holds, and the proof that the two fit.

The last step of every image writes it (``python -m easyllm.env.passport write ...``) after importing every compiled
extension and holding every wheel against the torch that is really there; where something does not fit, the build
fails and says what. ``easyllm doctor`` reads it. Stdlib only: it is also read where no torch is.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

SCHEMA = 1
HOUSE = Path("/opt/easyllm")
PASSPORT = HOUSE / "passport.json"
WHEELS = HOUSE / "wheels"
MODULES = {
    "train": (
        "torch",
        "transformers",
        "peft",
        "deepspeed",
        "bitsandbytes",
        "megatron.core",
        "trl",
        "lm_eval",
        "xllamacpp",
        "starlette",
        "openai",
    ),
    "serving": ("torch", "transformers", "starlette", "uvicorn", "openai"),
}
"""What must import in an image, beside every compiled extension of its wheels."""

Passport = dict[str, Any]


def read(path: Path | None = None) -> Passport | None:
    """The passport of the image we are in, or None outside of one."""
    path = path or Path(os.environ.get("EASYLLM_PASSPORT", PASSPORT))
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def faults(passport: Passport) -> list[str]:
    """Everything in it that does not fit, in words; empty for a sound image. Pure.

    What must hold: torch's CUDA is the pinned one and nvcc's; every wheel was built against the very torch, C++ ABI
    and Python that are installed; an op was built for the accelerator it will run under; packages are at their pins.
    """
    return [*_cuda_faults(passport), *_wheel_faults(passport), *_package_faults(passport)]


def _cuda_faults(passport: Passport) -> Iterable[str]:
    torch_cuda, nvcc = passport["torch_cuda"], passport["nvcc"]
    if nvcc and torch_cuda and nvcc != torch_cuda:
        yield f"nvcc is {nvcc}, torch was built for CUDA {torch_cuda}: one base image and one torch must agree"
    if passport["variant"] != "cuda" or passport["standin"]:
        return
    if torch_cuda != passport["cuda"]:
        yield f"torch {passport['torch']} has CUDA {torch_cuda}, the pin is {passport['cuda']}"
    if passport["target"] == "train" and not nvcc:
        yield "no nvcc in a train image for CUDA: its base must be a -devel image"


def _wheel_faults(passport: Passport) -> Iterable[str]:
    for name, record in passport["wheels"].items():
        for key in ("torch", "torch_cuda", "cxx11_abi", "python"):
            here = passport["python_tag"] if key == "python" else passport[key]
            if record[key] != here:
                yield f"the wheel of {name} was built against {key} {record[key]}, here it is {here}"
        accelerator = record.get("accelerator", passport["variant"])
        if accelerator != passport["variant"]:
            yield f"the ops of {name} were built for {accelerator} and would not be used under {passport['variant']}"


def _package_faults(passport: Passport) -> Iterable[str]:
    for name, here in passport["packages"].items():
        pinned = passport["pins"].get(name)
        if pinned is None and name not in passport["wheels"]:
            yield f"{name} {here} is installed and has no pin in docker/versions.env"
        elif pinned is not None and here.split("+")[0] != pinned:
            yield f"{name} is {here}, pinned is {pinned}"


def collect(target: str, variant: str, **stated: Any) -> Passport:
    """The passport of the image we are in; imports torch."""
    import torch

    from easyllm.env.bootstrap import PINS, python_pins, read_pins

    pins = dict(python_pins(read_pins(PINS)))
    packages = installed()
    return {
        "schema": SCHEMA,
        "image": f"easyllm-{target}:{variant}",
        "target": target,
        "variant": variant,
        **stated,
        "python": platform.python_version(),
        "python_tag": "cp{}{}".format(*platform.python_version_tuple()),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "nvcc": nvcc_version(),
        "cxx11_abi": torch.compiled_with_cxx11_abi(),
        "wheels": {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(WHEELS.glob("*.json"))},
        "packages": packages,
        "pins": {name: pins[name] for name in packages if name in pins},
    }


def nvcc_version() -> str | None:
    """Such as 13.0, of the nvcc on PATH or in /usr/local/cuda; None where there is none."""
    for nvcc in ("nvcc", "/usr/local/cuda/bin/nvcc"):
        try:
            done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=60, check=False)
        except OSError:
            continue
        found = re.search(r"release (\d+\.\d+)", done.stdout)
        if found:
            return found[1]
    return None


def extensions(passport: Passport) -> list[str]:
    """The compiled extensions of the wheels, as modules: deepspeed/ops/x.cpython-312.so -> deepspeed.ops.x."""
    files = [entry for record in passport["wheels"].values() for entry in record["extensions"]]
    return sorted(entry.split(".")[0].replace("/", ".") for entry in files)


def import_faults(modules: Iterable[str]) -> list[str]:
    """Import each module in a process of its own (a broken extension may end the process, not only raise)."""
    found = []
    for module in modules:
        code = f"import torch, importlib; importlib.import_module({module!r})"
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"])[-1]
            found.append(f"{module} does not import: {last}")
    return found


def command_faults() -> list[str]:
    """What the command line itself says where it does not start, in either language."""
    found = []
    for language in ("en", "zh"):
        command = [sys.executable, "-m", "easyllm", "--lang", language, "doctor"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            found.append(f"easyllm --lang {language} doctor ended with {done.returncode}: {done.stderr.strip()}")
    return found


def installed() -> dict[str, str]:
    """{package: version} of everything here but ourselves and what torch pins for itself (CUDA's libraries)."""
    found = metadata.distributions(path=[sysconfig.get_path("purelib")])  # setuptools adds its own to sys.path
    names = {dist.name.lower().replace("_", "-").replace(".", "-"): dist.version for dist in found}
    torch_pins_them = ("nvidia", "cuda", "triton", "easyllm")
    return {name: names[name] for name in sorted(names) if not name.startswith(torch_pins_them)}


def write(arguments: argparse.Namespace) -> int:
    """Write the passport and return 0, or say what does not fit and return 1."""
    passport = collect(
        arguments.target,
        arguments.variant,
        commit=arguments.commit,
        arch_list=[entry for entry in re.split(r"[; ]+", arguments.arch_list) if entry],
        cpu_march=arguments.march,
        cuda=arguments.cuda,
        min_driver=arguments.min_driver,
        standin=arguments.standin == "1",
    )
    passport["imports"] = [*MODULES[arguments.target], *extensions(passport)]
    found = [*faults(passport), *import_faults(passport["imports"]), *command_faults()]
    if found:
        print("This image does not fit together:", *found, sep="\n  ", file=sys.stderr)
        return 1
    PASSPORT.write_text(json.dumps(passport, indent=2) + "\n", "utf-8")
    print(f"{len(passport['imports'])} modules import, {len(passport['wheels'])} wheels fit torch {passport['torch']}")
    return 0


def check(_: argparse.Namespace) -> int:
    """Hold the image we are in against its passport once more; 0 when all fits."""
    passport = read()
    if passport is None:
        print("no passport here: this is not an image of easyllm", file=sys.stderr)
        return 1
    now = collect(**{key: passport[key] for key in ("target", "variant", *STATED)})
    found = [*faults(now), *import_faults(passport["imports"])]
    print(*(found or [f"all of {passport['image']} fits"]), sep="\n")
    return 1 if found else 0


STATED = ("commit", "arch_list", "cpu_march", "cuda", "min_driver", "standin")
"""What a build states about itself and cannot be read off the image."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m easyllm.env.passport", description=__doc__)
    verbs = parser.add_subparsers(required=True)
    writing = verbs.add_parser("write", help="prove that the image fits together, then write its passport")
    for option in ("target", "variant", "commit", "arch-list", "march", "cuda", "min-driver", "standin"):
        writing.add_argument(f"--{option}", required=True)
    writing.set_defaults(work=write)
    verbs.add_parser("check", help="prove it again").set_defaults(work=check)
    arguments = parser.parse_args()
    return int(arguments.work(arguments))


if __name__ == "__main__":
    sys.exit(main())
