"""Which GGUF file the engine llama.cpp runs, and whether it belongs to the model. Manifests and names, no torch."""

from importlib.util import find_spec
from pathlib import Path

from easyllm.core.artifact import Decision
from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.inputs import Input
from easyllm.core.messages import say
from easyllm.core.stage import Job
from easyllm.serve.config import ServeConfig

ENGINE = "llama.cpp"
MAGIC = b"GGUF"
"""How every such file begins."""


def gguf_problems(job: Job[ServeConfig]) -> list[Problem]:
    """SERVE-060 to SERVE-065, as far as they can be known now."""
    if job.config.engine != ENGINE:
        return [] if job.config.gguf is None else [problem("SERVE-062", stage="serve", key="serve.gguf")]
    found = [] if find_spec("xllamacpp") else [problem("SERVE-060", stage="serve", key="serve.engine")]
    given, model = job.inputs.get("gguf"), job.inputs.get("model")
    if given is None:
        if model and (model.path is None or model.path.suffix != ".gguf"):
            found.append(problem("SERVE-061", stage="serve", key="serve.gguf", model=model.ref))
        return found + (beginning_problems("serve.model", model.path) if model and model.path else [])
    if given.path is None:
        return [*found, problem("SERVE-063", stage="serve", key="serve.gguf", ref=given.ref, found="-")]
    if given.stage and given.manifest is None:  # an export that has not run yet
        return found
    files = gguf_files(given)
    if len(files) != 1:
        names = ", ".join(str(file) for file in files) or "-"
        found.append(problem("SERVE-063", stage="serve", key="serve.gguf", ref=given.ref, found=names))
    found += [entry for file in files for entry in beginning_problems("serve.gguf", file)]
    made_of = given.manifest.inputs.get("model") if given.manifest else None
    if made_of and model and model.manifest and made_of["digest"] != model.manifest.digest:
        found.append(problem("SERVE-064", stage="serve", key="serve.gguf", ref=given.ref, model=model.ref))
    return found


def beginning_problems(key: str, file: Path) -> list[Problem]:
    """SERVE-065 where a .gguf file does not begin as one: a download that failed, a git-lfs pointer."""
    if file.suffix != ".gguf" or not file.is_file():
        return []
    try:
        with file.open("rb") as opened:
            good = opened.read(len(MAGIC)) == MAGIC
    except OSError as error:
        reason = error.strerror or str(error)
    else:
        if good:
            return []
        reason = say("gguf_beginning")
    return [problem("SERVE-065", stage="serve", key=key, path=str(file), reason=reason)]


def gguf_files(given: Input) -> list[Path]:
    """The .gguf files that a file, a folder or an export is or has."""
    if given.path is None or given.path.is_file():
        return [given.path] if given.path and given.path.suffix == ".gguf" else []
    return sorted([*given.path.glob("*.gguf"), *given.path.glob("gguf/*.gguf")])


def chosen_gguf(job: Job[ServeConfig]) -> Path | None:
    """The file that llama.cpp is to run; None for other engines. Raises UserError where it cannot be told."""
    if job.config.engine != ENGINE:
        return None
    problems = gguf_problems(job)
    if problems:
        raise UserError(*problems)
    given = job.inputs.get("gguf") or job.inputs["model"]
    return gguf_files(given)[0]


def llama_decision(file: Path | None) -> Decision:
    """Why llama.cpp answers, and with which file."""
    return Decision("engine", ENGINE, say("why_engine_llama", file=file.name if file else "-"))
