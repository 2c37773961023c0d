"""The server of a model directory, as a process of its own on a free loopback port."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from easyllm.core.servers import Running, running
from easyllm.serve.adapters.settings import AdapterSettings
from easyllm.serve.config import ServeConfig
from easyllm.serve.limits import choose_limits, model_positions, read_json
from easyllm.serve.plan import server_command


@contextmanager
def running_server(
    model: Path, name: str, config: ServeConfig, adapters: AdapterSettings | None = None, gguf: Path | None = None
) -> Iterator[Running]:
    """A server of ``model``, stopped at the end of the block.

    What it says goes to our stderr. Raises StageFailed when it dies or cannot be stopped cleanly.
    """
    limits, _ = choose_limits(config, model_positions(read_json(model / "config.json")))
    command = server_command(model, name, config, limits, adapters, gguf, port=0)
    with running([*command, "--die-with-parent"], config.drain_seconds) as server:
        yield server
