"""``easyllm review``: which of its ways is asked for, and what it says of where the rows stand."""

import getpass
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from easyllm.core.errors import refuse
from easyllm.core.inputs import written_path
from easyllm.core.messages import say
from easyllm.instruct.review.decisions import Gate, gate, set_digest, standings
from easyllm.instruct.review.folder import Folder, find
from easyllm.instruct.review.log import Lot
from easyllm.instruct.review.sampling import Sampling, sampling

CONFIDENCE = 0.95
LONGEST_NAME = 80


@dataclass(frozen=True)
class Wish:
    """What the command line asks for; None and False where it says nothing."""

    author: str | None = None
    tui: bool = False
    accept_all: bool = False
    i_know: bool = False
    sample: float | None = None
    confidence: float | None = None
    port: int | None = None
    open_browser: bool | None = None
    as_json: bool = False

    @property
    def serves(self) -> bool:
        """Whether the page is asked for in so many words."""
        return self.port is not None or self.open_browser is not None


def review(directory: Path, wish: Wish) -> dict[str, Any] | None:
    """Do as asked; with ``as_json`` the document to print. Raises UserError REVIEW-001 to REVIEW-010."""
    _require_sense(wish)
    folder = find(written_path(directory))
    confidence = wish.confidence or CONFIDENCE
    if wish.accept_all:
        _accept_all(folder, wish)
    elif wish.tui:
        from easyllm.instruct.review.tui import in_terminal

        in_terminal(folder, author_of(wish.author), wish.sample, confidence)
    elif wish.sample and not (wish.as_json or wish.serves or sys.stdin.isatty()):
        print(_plan_text(folder, directory, wish.sample, confidence))
    elif not wish.as_json:
        from easyllm.instruct.review.server import serve

        serve(folder, author_of(wish.author), wish.port or 0, wish.sample, wish.open_browser is not False, confidence)
    return document(folder, wish.sample, confidence) if wish.as_json else None


def author_of(asked: str | None) -> str:
    """The name that decisions are kept under: the one given, else the login name. Raises UserError REVIEW-006."""
    if asked is None:
        try:
            asked = getpass.getuser()
        except (KeyError, OSError):  # a container's user without a name
            asked = ""
    name = asked.strip()
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise refuse("REVIEW-006", author=asked)
    return name


def document(folder: Folder, error_rate: float | None, confidence: float) -> dict[str, Any]:
    """Where the rows stand, for programs.

    {"rows_file", "log_file", "whole", "counts": {state: rows}, "gate": how they came there, in numbers, "decisions":
    {author: rows}, "sampling": the plan, with a rate}.
    """
    rows, entries = folder.rows(), folder.log.read()
    found, passed = standings(rows, entries), gate(rows, entries)
    return {
        "rows_file": str(folder.rows_file),
        "log_file": str(folder.log_file),
        "whole": passed.whole,
        "counts": counts(passed),
        "gate": passed.record(),
        "decisions": {author: sum(author in one.by for one in found) for author in passed.authors},
        "sampling": _plan(sampling(found, error_rate, confidence)) if error_rate else None,
    }


def counts(passed: Gate) -> dict[str, int]:
    return {
        "undecided": len(passed.undecided),
        "accepted": len(passed.accepted),
        "rejected": len(passed.rejected),
        "conflict": len(passed.conflicts),
    }


def _plan(plan: Sampling) -> dict[str, Any]:
    return asdict(plan) | {"sample": len(plan.sample), "left": len(plan.left), "acceptable": plan.acceptable}


def _require_sense(wish: Wish) -> None:
    """No option may be read and do nothing."""
    given = {
        "--tui": wish.tui, "--json": wish.as_json, "--accept-all": wish.accept_all, "--i-know": wish.i_know,
        "--sample": wish.sample is not None, "--confidence": wish.confidence is not None,
        "--port": wish.port is not None, "--open": wish.open_browser is True, "--no-open": wish.open_browser is False,
        "--author": wish.author is not None and not wish.accept_all,
    }  # fmt: skip
    only_page = [(option, way) for option in ("--port", "--open", "--no-open") for way in ("--tui", "--json")]
    for one, other in [*only_page, ("--tui", "--json"), ("--author", "--json")]:
        if given[one] and given[other]:
            raise refuse("REVIEW-010", option=one, beside=say("review_beside", other=other))
    for one in ("--tui", "--sample", "--port", "--open", "--no-open"):
        if given[one] and given["--accept-all"]:
            raise refuse("REVIEW-010", option=one, beside=say("review_beside", other="--accept-all"))
    for one, needed in (("--i-know", "--accept-all"), ("--confidence", "--sample")):
        if given[one] and not given[needed]:
            raise refuse("REVIEW-010", option=one, beside=say("review_without", other=needed))
    for option, share in (("--sample", wish.sample), ("--confidence", wish.confidence)):
        if share is not None and not 0 < share < 1:
            raise refuse("REVIEW-008", option=option, given=share)


def _accept_all(folder: Folder, wish: Wish) -> None:
    rows = folder.rows()
    before = gate(rows, folder.log.read())
    if not wish.i_know:
        raise refuse("REVIEW-005", count=len(before.undecided), path=str(folder.rows_file.parent))
    author = author_of(wish.author)
    if before.undecided:
        folder.log.append(Lot("accept-all", author, set_digest(rows), i_know=True))
    if wish.as_json:
        return
    if before.undecided:
        print(say("review_accepted_all", count=len(before.undecided), author=author, log=folder.log_file))
    else:
        print(say("review_nothing_open"))
    print(stands(gate(rows, folder.log.read())))


def stands(passed: Gate) -> str:
    """One sentence on where the rows stand, one more where nothing is left to do."""
    states = counts(passed)
    said = say("review_stands", rows=sum(states.values()), **states)
    return said + ("\n" + say("review_whole") if passed.whole else "")


def _plan_text(folder: Folder, directory: Path, error_rate: float, confidence: float) -> str:
    rows, entries = folder.rows(), folder.log.read()
    plan, passed = sampling(standings(rows, entries), error_rate, confidence), gate(rows, entries)
    lines = [stands(passed), say("review_plan", **(asdict(plan) | {"left": len(plan.left)}))]
    if plan.acceptable and passed.undecided:
        lines.append(say("review_plan_ready", count=len(passed.undecided)))
    elif plan.needed == plan.of:
        lines.append(say("review_plan_whole"))
    sure = "" if confidence == CONFIDENCE else f" --confidence {confidence:g}"
    command = f"  $ easyllm review {quote(str(directory))} --sample {error_rate:g}{sure}"
    return "\n".join([*lines, say("review_plan_next"), command, f"{command} --tui"])
