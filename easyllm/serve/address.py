"""The address a server listens on: is it free, is it this machine's, and who answers there already."""

import errno
import json
import socket
from urllib.parse import urlsplit

from easyllm.core.addresses import direct_opener
from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.messages import say


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on ``host``:``port`` (0 takes a free port).

    Raises UserError SERVE-001 when the port is taken and SERVE-007 when the address cannot be had.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except (OSError, ValueError) as error:  # ValueError: a name that no name server could be asked for
        raise UserError(_unusable(host, port, error)) from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server just stopped leaves TIME_WAIT
        found.bind(where)
        found.listen(128)
    except OSError as error:
        found.close()
        raise UserError(_unusable(host, port, error)) from error
    return found


def _unusable(host: str, port: int, error: OSError | ValueError) -> Problem:
    if isinstance(error, ValueError):
        return problem(
            "SERVE-007", stage="serve", key="serve.host", host=host, port=port, reason=say("address_no_name")
        )
    if error.errno == errno.EADDRINUSE:
        return problem("SERVE-001", stage="serve", key="serve.port", host=host, port=port, free=free_port())
    reason = error.strerror or str(error)
    return problem("SERVE-007", stage="serve", key="serve.host", host=host, port=port, reason=reason)


def free_port() -> int:
    """A port nothing listens on now; for a message, not to be relied on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def reachable(host: str, port: int) -> str:
    """The URL at which this machine reaches a server that listens on ``host``."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def has_host_name(url: str) -> bool:
    """Whether the host of ``url`` can be looked up at all: no part of its name is empty or longer than 63 letters."""
    try:
        (urlsplit(url).hostname or ".").encode("idna")
    except ValueError:
        return False
    return True


def who_answers(url: str, timeout_seconds: float = 0.5) -> str | None:
    """The ``router`` that a TGI-speaking server at ``url`` names in /info; None where none answers."""
    try:
        with direct_opener().open(f"{url}/info", timeout=timeout_seconds) as answer:
            info = json.loads(answer.read(65536))
    except (OSError, ValueError):
        return None
    return str(info["router"]) if isinstance(info, dict) and "router" in info else None
