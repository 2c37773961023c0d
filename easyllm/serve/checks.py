"""What must hold before a model is served: free port, sane limits, chat template, end token. No torch."""

from pathlib import Path
from typing import Any

from easyllm.core.addresses import is_base_address, without_password
from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.keys import key_to_send
from easyllm.core.stage import Job
from easyllm.serve import address
from easyllm.serve.adapters.inputs import adapter_problems
from easyllm.serve.config import ServeConfig
from easyllm.serve.door.access import access_of, access_problems
from easyllm.serve.engines.gguf import gguf_problems
from easyllm.serve.engines.precision import precision_problems
from easyllm.serve.limits import limit_problems, model_positions, read_json


def check(job: Job[ServeConfig]) -> list[Problem]:
    """Every problem that can be seen in the recipe and in the model's own JSON files."""
    found = port_problems(job.config.host, job.config.port) + remote_problems(job.config)
    found += access_problems(job.config.host, access_of(job.config))
    found += gguf_problems(job)
    found += precision_problems(job.config)
    source = job.inputs.get("model")
    directory = source.path if source and job.ready("model") else None
    found += adapter_problems(job, directory)
    if directory is None or not directory.is_dir():
        return found + limit_problems(job.config, None)
    found += limit_problems(job.config, model_positions(read_json(directory / "config.json")))
    return found + model_problems(directory)


def port_problems(host: str, port: int) -> list[Problem]:
    """SERVE-001 or SERVE-007. A server of easyllm on that port is no mistake: the user left it running."""
    try:
        address.listen(host, port).close()
    except UserError as error:
        taken = error.problems[0].code == "SERVE-001"
        if taken and address.who_answers(address.reachable(host, port)) == "easyllm":
            return []
        return list(error.problems)
    return []


def remote_problems(config: ServeConfig) -> list[Problem]:
    """SERVE-030 to SERVE-033. Whether the server answers is asked when it is needed: it may start later than we."""
    if config.engine != "remote":
        unused = [name for name in ("remote", "remote_key_variable") if getattr(config, name) is not None]
        return [problem("SERVE-032", stage="serve", key=f"serve.{name}", name=name) for name in unused]
    found = []
    if config.remote is None:
        found.append(problem("SERVE-030", stage="serve", key="serve.engine"))
    elif not (is_base_address(config.remote) and address.has_host_name(config.remote)):
        found.append(problem("SERVE-031", stage="serve", key="serve.remote", asked=without_password(config.remote)))
    if variable := config.remote_key_variable:
        try:
            key_to_send(variable)
        except ValueError as error:
            told: dict[str, Any] = {"variable": variable, "reason": str(error)}
            found.append(problem("SERVE-033", stage="serve", key="serve.remote_key_variable", **told))
    return found


def model_problems(directory: Path) -> list[Problem]:
    """SERVE-002 and SERVE-003, as far as JSON files tell; the tokenizer is asked when the model loads."""
    tokenizer = read_json(directory / "tokenizer_config.json")
    found = []
    if not _has_template(directory, tokenizer):
        found.append(problem("SERVE-002", stage="serve", key="serve.model", path=str(directory)))
    elif not _has_end(directory, tokenizer):
        found.append(problem("SERVE-003", stage="serve", key="serve.model", path=str(directory)))
    return found


def _has_template(directory: Path, tokenizer: dict[str, Any]) -> bool:
    files = ("chat_template.jinja", "chat_template.json")
    return bool(tokenizer.get("chat_template")) or any((directory / name).is_file() for name in files)


def _has_end(directory: Path, tokenizer: dict[str, Any]) -> bool:
    """A turn end that only the template knows counts too, so any special token leaves the question open."""
    given = [read_json(directory / name).get("eos_token_id") for name in ("generation_config.json", "config.json")]
    special = tokenizer.get("eos_token") or read_json(directory / "tokenizer.json").get("added_tokens")
    return any(value is not None for value in given) or bool(special)
