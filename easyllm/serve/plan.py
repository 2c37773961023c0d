"""What serving will take: limits, the size of the key-value cache, and the command that runs by hand."""

import shlex
import sys
from pathlib import Path
from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.families.weights import weight_files
from easyllm.core.messages import say
from easyllm.core.stage import Job, Plan
from easyllm.serve.adapters.inputs import adapter_bytes, settings_of
from easyllm.serve.adapters.settings import AdapterSettings, adapter_flags
from easyllm.serve.config import ServeConfig
from easyllm.serve.door.access import access_flags, access_of, flag
from easyllm.serve.engines.gguf import ENGINE, gguf_files, llama_decision
from easyllm.serve.engines.precision import bytes_per_value
from easyllm.serve.limits import Limits, cache_bytes, choose_limits, model_positions, read_json


def plan(job: Job[ServeConfig]) -> Plan:
    """Figures from the model's config.json where it is there already."""
    source = job.inputs.get("model")
    path = source.path if source and job.ready("model") else None
    config = read_json(path / "config.json") if path and path.is_dir() else {}
    limits, why = choose_limits(job.config, model_positions(config))
    figures: dict[str, Any] = {
        "prompts asked": len(job.config.ask),
        "largest prompt (tokens)": limits.input_tokens,
        "prompt and answer (tokens)": limits.total_tokens,
        "requests at once": limits.concurrent_requests,
        "requests that may wait": limits.queued_requests,
    }
    remote = job.config.engine == "remote"  # the weights and their cache are then another server's
    cache = 0 if remote else cache_bytes(limits, config, bytes_per_value(job.config))
    if cache:
        figures["key-value cache when full (MB)"] = round(cache / 1e6)
    adapters = adapter_bytes(job)
    if job.config.adapters or job.config.admin:
        figures["adapters"] = ", ".join(job.config.adapters) or "-"
        figures["adapters in memory (MB)"] = round(adapters / 1e6, 2)
    commands = []
    if path and path.is_dir():  # a .gguf or a hub id becomes a directory first; `easyllm serve` does that
        told = server_command(path, served_name(job), job.config, limits, settings_of(job), known_gguf(job))
        commands = [shlex.join(told)]
    weights = weight_files(path) if path and not remote else []
    if job.config.engine == ENGINE:
        weights = [file for file in [known_gguf(job)] if file]
    memory = cache + adapters + sum(file.stat().st_size for file in weights if file.is_file())
    decisions = [engine_decision(job), why, *kubernetes_decision(job.config)]
    return Plan(figures, commands, decisions, disk_bytes=1_000_000, memory_bytes=memory)


def engine_decision(job: Job[ServeConfig]) -> Decision:
    """Which engine answers, and where it is."""
    config = job.config
    if config.engine == ENGINE:
        return llama_decision(known_gguf(job))
    if config.engine == "remote":
        return Decision("engine", config.engine, say("why_engine_remote", url=config.remote))
    return Decision("engine", config.engine, say("why_engine_embedded"))


def kubernetes_decision(config: ServeConfig) -> list[Decision]:
    """How to have the manifest, where the recipe tells what it needs."""
    asked = config.kubernetes
    return [Decision("kubernetes", asked.image, say("why_kubernetes"))] if asked else []


def known_gguf(job: Job[ServeConfig]) -> Path | None:
    """The file of the engine llama.cpp, where it is there already."""
    given = job.inputs.get("gguf") or job.inputs.get("model")
    files = gguf_files(given) if given and job.config.engine == ENGINE else []
    return files[0] if files else None


def served_name(job: Job[ServeConfig]) -> str:
    """The model id that clients see."""
    return job.config.name or job.recipe


def server_command(
    model: Path, name: str, config: ServeConfig, limits: Limits, adapters: AdapterSettings | None = None,
    gguf: Path | None = None, port: int | None = None,
) -> list[str]:  # fmt: skip
    """The exact command line of the server process; ``port`` 0 lets it take a free loopback port."""
    command = [
        sys.executable, "-m", "easyllm.serve.server", *flag("--model", str(model)), *flag("--name", name),
        *flag("--host", config.host if port is None else "127.0.0.1"),
        "--port", str(config.port if port is None else port),
        "--max-total-tokens", str(limits.total_tokens), "--max-input-tokens", str(limits.input_tokens),
        "--max-concurrent-requests", str(limits.concurrent_requests),
        "--drain-seconds", str(config.drain_seconds),
    ]  # fmt: skip
    if config.engine == "embedded":
        command += embedded_flags(config)
    if config.engine == "remote":
        command += flag("--remote", str(config.remote))
        if config.remote_key_variable:
            command += flag("--remote-key-variable", config.remote_key_variable)
    command += ["--max-queued-requests", str(limits.queued_requests)]
    if port is None:  # a server of our own on loopback, asked by us alone, needs no door
        command += access_flags(access_of(config))
    if gguf:
        command += flag("--gguf", str(gguf))
    return [*command, *adapter_flags(adapters or AdapterSettings())]


def embedded_flags(config: ServeConfig) -> list[str]:
    """What only the embedded engine is told, where the recipe tells it."""
    flags = [] if config.dtype == "auto" else ["--dtype", config.dtype]
    if config.prefix_cache is not None:
        flags.append("--prefix-cache" if config.prefix_cache else "--no-prefix-cache")
    return flags
