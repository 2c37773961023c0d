"""``run`` rehearses a deployment and writes down what was answered; ``serve_forever`` is the deployment."""

import json
from pathlib import Path

from easyllm.core.errors import UserError
from easyllm.core.models import local_model, local_tokenizer
from easyllm.core.stage import Job, Result
from easyllm.serve.adapters.inputs import adapter_problems, settings_of
from easyllm.serve.checks import model_problems
from easyllm.serve.config import ServeConfig
from easyllm.serve.contract import Remote
from easyllm.serve.door.access import access_of
from easyllm.serve.engines.gguf import chosen_gguf
from easyllm.serve.limits import choose_limits, limit_problems, model_positions, read_json
from easyllm.serve.plan import engine_decision, served_name


def run(job: Job[ServeConfig]) -> Result:
    """Start the server, ask it, stop it; served.json and served.md hold the answers and the figures."""
    from easyllm.serve.rehearsal import rehearse

    model = servable(job)
    found = rehearse(model, served_name(job), job.config, settings_of(job), chosen_gguf(job))
    metrics = found.metrics()
    document = {"model": served_name(job), "metrics": metrics, "answers": found.answers}
    (job.out / "served.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (job.out / "served.md").write_text(as_markdown(served_name(job), metrics, found.answers), "utf-8")
    _, limit = choose_limits(job.config, model_positions(read_json(model / "config.json")))
    decisions = [engine_decision(job), *found.decisions, limit]
    return Result("served", metrics, decisions, {"answers": found.answers})


def serve_forever(job: Job[ServeConfig]) -> None:
    """Serve until Ctrl-C or SIGTERM. The address goes to stdout, how to ask it to stderr."""
    from easyllm.serve.server import Settings, serve

    model = servable(job)
    limits, _ = choose_limits(job.config, model_positions(read_json(model / "config.json")))
    config = job.config
    remote = Remote(config.remote, config.remote_key_variable) if config.remote else None
    settings = Settings(
        model, served_name(job), config.host, config.port, limits, config.drain_seconds, remote,
        access_of(config), chosen_gguf(job), config.dtype, config.prefix_cache, settings_of(job),
    )  # fmt: skip
    serve(settings, greet=True)


def servable(job: Job[ServeConfig]) -> Path:
    """The model's directory, downloaded or dequantised if need be; what its files forbid is refused here.

    For the remote engine the weights stay where they are: tokenizer, template and configuration are enough.
    """
    chosen_gguf(job)  # before anything is fetched
    fetch = local_tokenizer if job.config.engine == "remote" else local_model
    model = fetch(job.inputs["model"], job.cache_dir, "serve")
    problems = limit_problems(job.config, model_positions(read_json(model / "config.json")))
    problems += model_problems(model) + adapter_problems(job, model)
    if problems:
        raise UserError(*problems)
    return model


def as_markdown(name: str, metrics: dict[str, float], answers: list[dict[str, object]]) -> str:
    """The answers as a table, and the figures below."""
    lines = [f"# {name}, served", "", "| asked | answered | tokens | ended by |", "|---|---|---|---|"]
    for entry in answers:
        cells = (entry["prompt"], entry["answer"], entry["tokens"], entry["finish_reason"])
        lines.append("| " + " | ".join(cell(str(value)) for value in cells) + " |")
    lines += ["", "| figure | value |", "|---|---|"]
    lines += [f"| {figure} | {value:.4g} |" for figure, value in metrics.items()]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Text that cannot break out of its cell."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>")
