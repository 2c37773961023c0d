"""What the container tests talk to: a Docker engine, and a checkout in which an ordinary user builds and runs."""

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STANDIN = "easyllm-standin:base"
SCALED_DOWN = " ".join((
    "corpus.tokenizer.train.vocab_size=1000",
    "pretrain.model.layers=2 pretrain.model.hidden=64 pretrain.model.heads=4 pretrain.model.kv_heads=2",
    "pretrain.sequence_tokens=64 pretrain.steps=20 pretrain.checkpoint_every_steps=10",
    "finetune.epochs=1 finetune.sequence_tokens=128",
))  # fmt: skip

Done = subprocess.CompletedProcess[str]


def call(command: list[str], environment: dict[str, str], expect: int | None = 0, **options: Any) -> Done:
    """Run a command to its end; where it does not end as expected, show all it said."""
    where = {"text": True, "capture_output": True, "timeout": 3600, "stdin": subprocess.DEVNULL} | options
    done = subprocess.run(command, env=environment, check=False, **where)
    if expect is not None:
        assert done.returncode == expect, f"{shlex.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@dataclass(frozen=True)
class Engine:
    """A Docker engine that answers and has the stand-in image."""

    environment: dict[str, str]

    def docker(self, *words: str, expect: int | None = 0, **options: Any) -> Done:
        return call(["docker", *words], self.environment, expect, **options)

    def inside(self, image: str, program: str, *options: str, expect: int | None = 0) -> Done:
        """Run a shell program in a new container that sees no network and no registry."""
        fixed = ("--rm", "--init", "--pull=never", "--network=none")
        return self.docker("run", *fixed, *options, image, "sh", "-c", program, expect=expect)

    def can(self, *flags: str) -> bool:
        """Whether containers start with these flags here."""
        run = ("run", "--rm", "--network=none", *flags, STANDIN, "true")
        return self.docker(*run, expect=None).returncode == 0


@dataclass(frozen=True)
class House:
    """A clean checkout, and the ordinary user it belongs to."""

    folder: Path
    engine: Engine
    environment: dict[str, str]
    uid: int
    variables: tuple[str, ...]
    """What this machine needs on every ``make`` line."""

    @property
    def run_folder(self) -> Path:
        return self.folder / "runs" / "tiny-cpu"

    def run(self, *command: str, expect: int | None = 0, **environment: str) -> Done:
        """A command as the user gives it in the checkout."""
        return call([*as_user(self.uid), *command], self.environment | environment, expect, cwd=self.folder)

    def make(self, *words: str, expect: int | None = 0) -> Done:
        return self.run("make", *words, *self.variables, expect=expect)

    def stage(self, *targets: str) -> Done:
        """``make`` of a stage in the container, on the shipped recipe made small."""
        return self.make(*targets, "RUNTIME=docker", "RECIPE=tiny-cpu", f"ARGS={SCALED_DOWN}")

    def build(self, *options: str, expect: int | None = 0) -> Done:
        return self.make("build", f"BUILD={' '.join(options)}", expect=expect)

    def manifest(self, stage: str) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self.run_folder / stage / "manifest.json").read_text("utf-8"))
        return manifest


def as_user(uid: int) -> list[str]:
    """The words that make a command the user's where the tests run as root.

    Group 0 opens the engine's socket. The capability lets the user reach programs in root's home (the engine, Python),
    as an ordinary user's would lie in his own; no container gets it, so what comes out there is the user's alone.
    """
    if os.geteuid() != 0:
        return []
    capability = ("--inh-caps", "+dac_override", "--ambient-caps", "+dac_override")
    return ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--groups", "0", *capability]


Build = Callable[..., Done]
"""``build("cuda", "--plan")``: ``make build`` for a variant, with options."""


@dataclass(frozen=True)
class Images:
    train: str
    serving: str
    said: str
    """What `make build` printed."""
