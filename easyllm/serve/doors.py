"""A route that says what it takes and what it answers: the table of routes and the document are one."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Endpoint = Callable[[Request], Awaitable[Response]]


class Door(Route):
    """One path and method. The endpoint's docstring says what it is for."""

    def __init__(
        self, method: Literal["GET", "POST", "DELETE"], path: str, endpoint: Endpoint, answer: Any, body: Any = None,
        events: Any = None,
    ) -> None:  # fmt: skip
        """``answer`` is the type of a whole answer's JSON, None where there is none; ``events`` that of one event."""
        super().__init__(path, endpoint, methods=[method])
        self.answer = answer
        self.body = body
        self.events = events
