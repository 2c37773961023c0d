"""Serving without a recipe: a model's directory, or a folder of runs, whose newest merged model is meant.

Nothing is written, there or elsewhere: in a container the folder is mounted read-only and the user is anyone.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from easyllm.core import recipe as recipes
from easyllm.core.artifact import MANIFEST, Manifest, read_manifest
from easyllm.core.digest import Digests, of_value
from easyllm.core.errors import UserError, problem, refuse
from easyllm.core.inputs import Input, Place, content_digest, resolve, written_path
from easyllm.core.messages import say
from easyllm.core.progress import note
from easyllm.core.section import Section
from easyllm.core.stage import Job
from easyllm.serve.checks import check
from easyllm.serve.config import ServeConfig


class Deployment(Section):
    """What a recipe comes to when only a folder is given."""

    serve: ServeConfig


def folder_job(folder: Path, overrides: Sequence[str]) -> Job[ServeConfig]:
    """The job that serves ``folder``, with ``serve.key=value`` overrides. Raises UserError for all that can be known.

    The model's id is the recipe that made it, else the folder's name.
    """
    with readable(folder):
        model, manifest = find_model(folder)
        for file in model.iterdir():
            if file.is_file():
                file.open("rb").close()  # before minutes go by: weights are often written for their owner alone
    source = recipes.Source(folder, {})
    data = {"serve": {"model": str(model)}}
    config = recipes.fill(data, source, list(overrides), Deployment).serve
    if config.model != str(model):
        told = {"value": config.model, "detail": say("serve_folder_is_model")}
        raise refuse("RECIPE-006", stage="serve", key="serve.model", file="command line", **told)
    # An artifact vouches for itself; other weights are not hashed, for nothing here compares them.
    digest = manifest.digest if manifest else of_value(str(model))
    if config.adapters and manifest is None:
        digest = content_digest(model, Digests(model / MANIFEST))  # now it is compared; nothing is kept of it
    found = Input("model", str(model), "model", path=model, manifest=manifest, digest=digest)
    name = manifest.recipe if manifest else model.name
    # No place to write is needed: what may land in the cache (.gguf, hub ids) is never a folder.
    here = Place(Path.cwd(), model, model, (), (), Digests(model / "no-digests.json"))
    others = resolve("serve", config.model_copy(update={"model": None, "adapters": {}}), here)
    inputs = {"model": found, **others, **folder_adapters(config)}
    job = Job("serve", config, inputs, 0, name, run_dir=model, cache_dir=model, out=model)
    problems = check(job)
    if problems:
        raise UserError(*problems)
    return job


def folder_adapters(config: ServeConfig) -> dict[str, Input]:
    """The adapters given on the command line: directories, for without a recipe there are no stages."""
    found = {}
    for name, written in config.adapters.items():
        path, role = written_path(written).absolute(), f"adapters.{name}"
        if not path.is_dir():
            raise refuse("INPUT-001", stage="serve", key=f"serve.{role}", ref=written, path=str(path))
        manifest = read_manifest(path)
        digest = manifest.digest if manifest else of_value(str(path))
        found[role] = Input(role, written, "artifact", path=path, manifest=manifest, digest=digest)
    return found


def find_model(folder: Path) -> tuple[Path, Manifest | None]:
    """The model that ``folder`` is, or the newest that merge has published in ``folder`` or one folder below."""
    folder = written_path(folder).absolute()
    manifest = read_manifest(folder)
    if manifest and manifest.kind != "model":
        raise refuse("INPUT-004", stage="serve", key="serve.model", ref=str(folder), kind=manifest.kind, wanted="model")
    if manifest or (folder / "config.json").is_file():
        return folder, manifest
    runs = [folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())]
    found = [(made, run / "merge") for run in runs if (made := read_manifest(run / "merge")) and made.kind == "model"]
    if not found:
        raise refuse("SERVE-020", stage="serve", path=str(folder))
    manifest, model = max(found, key=lambda pair: pair[0].ended)
    if len(found) > 1:
        note(say("serve_newest", path=model, count=len(found), ended=manifest.ended))
    return model, manifest


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """What this user may not read is told as SERVE-021: in a container he is seldom the one who made it."""
    try:
        yield
    except PermissionError as error:
        path: Any = error.filename or folder
        entry = problem("SERVE-021", stage="serve", path=str(path), reason=error.strerror, uid=os.geteuid())
        raise UserError(entry) from error
