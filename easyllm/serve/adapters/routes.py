"""Loading and unloading adapters while the server answers, by vLLM's routes. There only where serve.admin is set."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from easyllm.core.errors import StageFailed, UserError
from easyllm.serve.adapters.files import CONFIG, WEIGHTS
from easyllm.serve.adapters.inputs import RESERVED
from easyllm.serve.adapters.settings import AdapterSettings
from easyllm.serve.bodies import Body, Neutral
from easyllm.serve.config import AdapterName
from easyllm.serve.contract import Adapters, EngineFailed
from easyllm.serve.desk import Desk
from easyllm.serve.doors import Door
from easyllm.serve.refusals import Refused, invalid

NOT_FOUND, CONFLICT, UNAVAILABLE = 404, 409, 503
MOST_AT_ONCE = 4
"""Adapters that may be on their way in or out; an unloading waits for answers of minutes."""
T = TypeVar("T")


class LoadBody(Body):
    lora_name: AdapterName
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]
    """The adapter's directory, in the folder that the operator allowed: absolute, or starting there."""
    load_inplace: Neutral = None


class UnloadBody(Body):
    lora_name: AdapterName


def routes(desk: Desk, settings: AdapterSettings) -> list[Door]:
    """POST /v1/load_lora_adapter and /v1/unload_lora_adapter."""
    api = AdminRoutes(desk, settings)
    return [
        Door("POST", "/v1/load_lora_adapter", api.load, str, LoadBody),
        Door("POST", "/v1/unload_lora_adapter", api.unload, str, UnloadBody),
    ]


class AdminRoutes:
    def __init__(self, desk: Desk, settings: AdapterSettings) -> None:
        self.desk = desk
        self.settings = settings
        # Not asyncio's own threads: scores and grammars of requests would wait behind an unloading.
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, "adapters")

    @property
    def adapters(self) -> Adapters:
        found = self.desk.model.adapters
        assert found is not None  # these routes are there only with an engine that was made for adapters
        return found

    async def load(self, request: Request) -> Response:
        """200 once the adapter has been proven and can be asked for; requests under way go on meanwhile."""
        body = await self.desk.read(request, LoadBody)
        name = body.lora_name
        if name in (self.desk.about.name, *RESERVED):
            raise Refused(CONFLICT, f"`{name}` is a name of the base model", "lora_name")
        if any(card.name == name for card in self.adapters.cards()):
            raise Refused(CONFLICT, f"The lora adapter `{name}` has already been loaded", "lora_name")
        path = allowed(self.settings.folder, body.lora_path)
        try:
            await self._beside(self.adapters.load, name, path)
        except EngineFailed as error:  # no fault of the adapter's
            raise Refused(UNAVAILABLE, str(error)) from error
        except (UserError, StageFailed) as error:
            raise invalid(told(error, path, body.lora_path), "lora_path") from error
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(self, request: Request) -> Response:
        """The name is gone at once; 200 when the last request that used it has ended."""
        body = await self.desk.read(request, UnloadBody)
        try:
            await self._beside(self.adapters.unload, body.lora_name)
        except UserError as error:
            raise Refused(NOT_FOUND, f"The lora adapter `{body.lora_name}` cannot be found", "lora_name") from error
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    async def _beside(self, work: Callable[..., T], *given: object) -> T:
        """``work(*given)`` in a thread, while the server answers on."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *given)


def allowed(folder: Path | None, asked: str) -> Path:
    """The directory ``asked`` for; refused where it, or a file in it, leads out of ``folder`` by .. or a link."""
    assert folder is not None  # a check refuses to start without one
    root = folder.resolve()
    refused = invalid(f"`lora_path` must be the directory of an adapter below {folder.name}/", "lora_path")
    if "\0" in asked:
        raise refused
    path = (root / asked).resolve()
    inside = path != root and path.is_relative_to(root)
    if not inside or not path.is_dir():
        raise refused
    if not all((path / name).resolve().is_relative_to(path) for name in (CONFIG, WEIGHTS)):
        raise refused
    return path


def told(error: UserError | StageFailed, path: Path, asked: str) -> str:
    """What is wrong, without telling strangers where on this machine the folder stands."""
    return " ".join(str(error).replace(str(path), asked).split())
