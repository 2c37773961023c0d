"""``easyllm serve URL --self-test``: every check asked of a running server, one line each as it is known."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
from rich.cells import cell_len, set_cell_size

from easyllm.core.addresses import is_base_address, without_password
from easyllm.core.errors import refuse
from easyllm.core.keys import key_to_send
from easyllm.core.messages import say, term
from easyllm.serve.address import has_host_name
from easyllm.serve.selftest import openai_checks, refusal_checks, tgi_checks
from easyllm.serve.selftest.outcome import Broken, Check, NotOffered, Outcome
from easyllm.serve.selftest.server import Server, short

_LAST = [check for check in refusal_checks.CHECKS if check.api == "server"]
CHECKS: tuple[Check, ...] = (
    *openai_checks.CHECKS,
    *[check for check in refusal_checks.CHECKS if check not in _LAST],
    *tgi_checks.CHECKS,
    *_LAST,
)
"""In the order they are asked: the answers first, how it says no, and last what may hurt it."""
DIALECTS = ("chat", "generate")
"""The check of each API without which it is not spoken at all."""
SIGNS = ("models", "info")
"""The checks that tell a server of a model whose answers are broken from a server of something else."""


def self_test(
    target: str, key_variable: str | None, model: str | None, tell: Callable[[str], None] | None
) -> dict[str, Any]:
    """What the server at ``target`` keeps of the contract; ``tell`` gets each line of the table as it is known.

    {"url", "model", "holds", "checks": [{"api", "check", "outcome", "seen"}]}. Raises UserError SERVE-070 to SERVE-079.
    """
    url = target.rstrip("/").removesuffix("/v1").rstrip("/")
    if not (is_base_address(f"{url}/v1") and has_host_name(url)):
        raise refuse("SERVE-070", stage="serve", asked=without_password(target))
    with closing(Server(url, key_of(key_variable), model)) as server:
        knock(server)
        outcomes = []
        for outcome in examine(server):
            outcomes.append(outcome)
            if tell:
                tell(line(outcome))
        if not speaks(outcomes):
            raise refuse("SERVE-073", stage="serve", url=url)
        holds = all(outcome.state != "broken" for outcome in outcomes)
        if tell:
            tell(summary(outcomes))
        return {"url": url, "model": server.model, "holds": holds, "checks": [outcome.row() for outcome in outcomes]}


def speaks(outcomes: list[Outcome]) -> bool:
    """Whether it is a server of a model at all: any web server answers something at any address."""
    states = {outcome.name: outcome.state for outcome in outcomes}
    asked = {states[name] for name in DIALECTS}
    return "holds" in asked or ("broken" in asked and "holds" in {states[name] for name in SIGNS})


def key_of(variable: str | None) -> str | None:
    """The key in that environment variable; None where none is named."""
    if variable is None:
        return None
    try:
        return key_to_send(variable)
    except ValueError as error:
        raise refuse("SERVE-072", stage="serve", variable=variable, reason=str(error)) from error


def knock(server: Server) -> None:
    """Raises SERVE-071 where nobody answers, SERVE-074 where it wants a key that was not given or is not its own, and
    SERVE-079 where it says itself that it is not ready."""
    try:
        reply, health = server.ask("GET", "/v1/models"), server.ask("GET", "/health")
        server.models  # noqa: B018  known from now on, also should the server not live to the end
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise refuse("SERVE-071", stage="serve", url=server.url, reason=reason_of(error)) from error
    if reply.status in (401, 403):
        raise refuse("SERVE-074", stage="serve", url=server.url, told=reply.reason)
    if health.status == httpx.codes.SERVICE_UNAVAILABLE:
        raise refuse("SERVE-079", stage="serve", url=server.url, told=health.reason)


def examine(server: Server) -> Iterator[Outcome]:
    """The outcome of every check, in order."""
    for check in CHECKS:
        yield outcome_of(check, server)


def outcome_of(check: Check, server: Server) -> Outcome:
    """One check; an answer that has not the shape it must have is broken, whatever it lacks."""
    try:
        return Outcome(check.api, check.name, "holds", check.ask(server))
    except NotOffered as none:
        return Outcome(check.api, check.name, "not offered", str(none))
    except Broken as broken:
        return Outcome(check.api, check.name, "broken", str(broken))
    except httpx.HTTPError as error:
        return Outcome(check.api, check.name, "broken", say("selftest_no_answer", reason=reason_of(error)))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        told = say("selftest_gibberish", reason=f"{type(error).__name__} {short(str(error))}")
        return Outcome(check.api, check.name, "broken", told)


def reason_of(error: Exception) -> str:
    return short(str(error)) or type(error).__name__


def line(outcome: Outcome) -> str:
    """One row of the table."""
    names = max(cell_len(term(check.name)) for check in CHECKS)
    states = max(cell_len(term(state)) for state in ("holds", "broken", "not offered"))
    cells = (
        set_cell_size(term(outcome.api), max(cell_len(term(check.api)) for check in CHECKS)),
        set_cell_size(term(outcome.name), names),
        set_cell_size(term(outcome.state), states),
        outcome.seen,
    )
    return "  ".join(cells).rstrip()


def summary(outcomes: list[Outcome]) -> str:
    states = [outcome.state for outcome in outcomes]
    return say(
        "selftest_summary",
        holds=states.count("holds"), broken=states.count("broken"), none=states.count("not offered"),
    )  # fmt: skip
