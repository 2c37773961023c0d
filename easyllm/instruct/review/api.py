"""What the review page asks of the server, as JSON below /api: rows, where they stand, decisions, the sample."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import wraps
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from easyllm.core.errors import UserError
from easyllm.core.messages import LANGUAGES, catalogue, language
from easyllm.instruct.review.decisions import Standing
from easyllm.instruct.review.desk import Desk, TooEarly, Unknown
from easyllm.instruct.review.log import Decision
from easyllm.instruct.review.reasons import REASONS
from easyllm.instruct.review.sift import Wanted, facets

ROWS_AT_ONCE = 200
KINDS = "kinds"
"""The one detail of findings whose values are names, and no words of the row."""


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DecideBody(Body):
    """One decision of the page's author; who that is, only the server says. ``since`` as in UndoBody."""

    row: str
    verdict: Literal["accept", "edit", "reject", "undo"]
    edited: dict[str, str] | None = None
    note: str = ""
    since: int = 0


class UndoBody(Body):
    since: int = 0
    """The revision that the page knows; the answer tells what is new after it."""


class PlanBody(Body):
    error_rate: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)


@dataclass(frozen=True)
class Asked:
    """What the command line said of the sample."""

    error_rate: float | None
    """None: every row is to be looked at; the page offers a sample all the same."""
    confidence: float


def routes(desk: Desk, asked: Asked) -> list[Route]:
    """Everything below /api."""
    api = Api(desk, asked)
    gets = {"start": api.start, "find": api.find, "rows": api.rows, "standing": api.standing, "plan": api.plan}
    posts = {"decide": api.decide, "undo": api.undo, "accept-lot": api.accept_lot, "undo-lot": api.undo_lot}
    return [Route(f"/api/{name}", answering(made), methods=["GET"]) for name, made in gets.items()] + [
        Route(f"/api/{name}", answering_body(made), methods=["POST"]) for name, made in posts.items()
    ]


class Api:
    def __init__(self, desk: Desk, asked: Asked) -> None:
        self.desk, self.asked = desk, asked

    def start(self, query: dict[str, str]) -> Any:
        """What a page needs once: who and what, and the names of findings and origins in its language."""
        desk = self.desk
        chosen = query.get("lang") if query.get("lang") in LANGUAGES else language()
        with desk.lock:
            desk.refresh()
            offered = facets(desk.found)
            details = [finding.detail for one in desk.found for finding in one.source.findings]
        lists = [detail[KINDS] for detail in details if isinstance(detail.get(KINDS), list)]
        kinds = {kind for found in lists for kind in found if isinstance(kind, str)}
        names = {*offered["reasons"], *offered["origins"], *REASONS, *(name for detail in details for name in detail)}
        terms = catalogue(str(chosen)).get("terms", {})
        return {
            "language": chosen,
            "author": desk.author,
            "file": desk.folder.rows_file.name,
            "total": len(desk.found),
            "facets": offered,
            "reasons": REASONS,
            "terms": {name: terms.get(name, name.replace("_", " ")) for name in names | kinds},
            "sample": asdict(self.asked),
        }

    def find(self, query: dict[str, str]) -> Any:
        """{"numbers": of the rows that are wanted, in order}."""
        whole = {name: int(query[name]) for name in query if name.startswith(("least_", "most_"))}
        known = {field.name for field in fields(Wanted)}
        asked: dict[str, Any] = {name: text for name, text in query.items() if name in known} | whole
        wanted = Wanted(**asked)
        with self.desk.lock:
            self.desk.refresh()
            return {"numbers": wanted.numbers(self.desk.found, self.desk.author)}

    def rows(self, query: dict[str, str]) -> Any:
        """{"rows": those of ``numbers``}; numbers that are none are left out."""
        numbers = [int(text) for text in query.get("numbers", "").split(",") if text][:ROWS_AT_ONCE]
        with self.desk.lock:
            found = self.desk.found
            return {"rows": [row_json(number, found[number]) for number in numbers if 0 <= number < len(found)]}

    def standing(self, query: dict[str, str]) -> Any:
        return self.desk.standing(int(query.get("since", 0)))

    def plan(self, query: dict[str, str]) -> Any:
        """How far the sample is; ``numbers`` are its rows in the order to look at them."""
        asked = PlanBody.model_validate(query)
        plan = self.desk.plan(asked.error_rate, asked.confidence)
        return asdict(plan) | {
            "acceptable": plan.acceptable,
            "left": len(plan.left),
            "numbers": self.desk.numbers_of(plan.sample),
            "numbers_left": self.desk.numbers_of(plan.left),
            "sample": len(plan.sample),
        }

    def decide(self, body: dict[str, Any]) -> Any:
        asked = DecideBody.model_validate(body)
        decision = Decision(asked.row, self.desk.author, asked.verdict, asked.edited, asked.note)
        return self._after(self.desk.decide(decision), asked.since)

    def undo(self, body: dict[str, Any]) -> Any:
        """Of the latest decision that still stands; {"row": None} where there is none."""
        return self._after(self.desk.take_back(), UndoBody.model_validate(body).since)

    def accept_lot(self, body: dict[str, Any]) -> Any:
        asked = PlanBody.model_validate(body)
        self.desk.accept_lot(asked.error_rate, asked.confidence)
        return {}

    def undo_lot(self, body: dict[str, Any]) -> Any:
        self.desk.undo_lot()
        return {}

    def _after(self, number: int | None, since: int) -> dict[str, Any]:
        """The row as it stands now, and all that is new, in one answer: the reviewer waits for no second one."""
        row = None if number is None else row_json(number, self.desk.found[number])
        return {"row": row, "standing": self.desk.standing(since)}


def row_json(number: int, one: Standing) -> dict[str, Any]:
    """A row as the page shows it: as it was made, where it stands, and who decided what."""
    source = one.source
    by = {
        author: {"verdict": made.verdict, "edited": made.edited, "note": made.note, "time": made.time}
        for author, made in one.by.items()
    }
    standing = {"state": one.state, "by": by, "lot": one.lot.verdict if one.lot else None}
    return {"number": number, **source.as_json(), **standing}


def answering(made: Callable[[dict[str, str]], Any]) -> Callable[[Request], Response]:
    """A route that answers with what ``made`` makes of the query string. It works in a thread of its own."""

    @wraps(made)
    def route(request: Request) -> Response:
        return answer(lambda: made(dict(request.query_params)))

    return route


def answering_body(made: Callable[[dict[str, Any]], Any]) -> Callable[[Request], Any]:
    """The same for what is sent as JSON."""
    from starlette.concurrency import run_in_threadpool

    @wraps(made)
    async def route(request: Request) -> Response:
        try:
            body = await request.json()
        except ValueError as error:
            return refusal(400, str(error))
        return await run_in_threadpool(answer, lambda: made(body))

    return route


def answer(work: Callable[[], Any]) -> Response:
    """The result as JSON, or {"error": words, "code": name} with the status that says whose fault it is."""
    try:
        return JSONResponse(work())
    except UserError as error:  # a line of the log that is broken, a disk that is full
        return refusal(409, str(error), error.problems[0].code)
    except Unknown as error:
        return refusal(404, str(error), "unknown")
    except TooEarly:
        return refusal(409, "", "too_early")
    except (ValidationError, ValueError) as error:
        return refusal(400, str(error))


def refusal(status: int, words: str, code: str = "wrong") -> Response:
    return JSONResponse({"error": words, "code": code}, status)
