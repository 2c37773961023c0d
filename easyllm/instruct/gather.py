"""The last part of the stage: what a person accepted becomes rows to train on, in the format that was asked for."""

import os
import shutil
from pathlib import Path
from typing import Any

from easyllm.core.artifact import Decision, write_whole
from easyllm.core.errors import Waiting, refuse
from easyllm.core.freshness import digest_now
from easyllm.core.messages import say
from easyllm.core.stage import Job, Result
from easyllm.instruct.clean import report
from easyllm.instruct.config import InstructConfig
from easyllm.instruct.ift.split import hold_out
from easyllm.instruct.ift.write import write_rows
from easyllm.instruct.kept import Kept, lines_of
from easyllm.instruct.review.decisions import Gate, gate
from easyllm.instruct.review.folder import Folder
from easyllm.instruct.review.log import Log, merged

TRAIN, HELD_OUT = "rows.jsonl", "heldout.jsonl"


def gather(job: Job[InstructConfig], kept: Kept, note: dict[str, Any]) -> Result:
    """The artifact, once every row is decided on. ``note``: what was told when the rows were made.

    Raises Waiting where rows are undecided or in conflict, UserError INSTRUCT-007 where none was accepted and
    INSTRUCT-005 where all would be held out.
    """
    folder = Folder(kept.rows_file, kept.log_file)
    rows = folder.rows()
    if "decisions" in job.inputs:  # so that a reviewer here sees them too
        folder.log.bring_in(merged(Log(path) for path in job.inputs["decisions"].files))
    found = gate(rows, folder.log.read())
    if not found.whole:
        raise waiting(job, found)
    if not found.accepted:
        raise refuse("INSTRUCT-007", stage=job.stage, key=job.stage, rows=len(rows), folder=_short(kept.folder))
    train, held_out = hold_out(found.accepted, job.config.held_out_rows, job.seed)
    if not train:
        raise refuse("INSTRUCT-005", stage=job.stage, key="instruct.held_out_rows", rows=len(found.accepted),
                     asked=job.config.held_out_rows)  # fmt: skip
    write_rows(job.out / TRAIN, train, job.config.write)
    if held_out:
        write_rows(job.out / HELD_OUT, held_out, job.config.write)
    write_whole(job.out / "rejected.jsonl", lines_of(found.rejected))
    for name in ("dropped.jsonl", *report.FILES):
        shutil.copyfile(kept.folder / name, job.out / name)
    return Result(
        "rows",
        metrics=note["metrics"] | {"accepted": len(found.accepted), "rejected": len(found.rejected),
                                   "train": len(train), "held_out": len(held_out)},
        decisions=[Decision("reviewed", found.how, say(f"why_gate_{found.how}", **_numbers(found)))],
        records=note["records"] | {
            "review": found.record(),
            "short": note["short"],
            "files": {"train": [TRAIN], "held_out": [HELD_OUT] if held_out else []},
            # Whoever decides anew, or edits a row, makes this artifact stale.
            "watched": {str(f.relative_to(job.run_dir)): digest_now(f) for f in (kept.rows_file, kept.log_file)},
        },
    )  # fmt: skip


def waiting(job: Job[InstructConfig], found: Gate) -> Waiting:
    """Where the rows lie, how many a person has still to decide on, and the command for it."""
    numbers = {"undecided": len(found.undecided), "conflicts": len(found.conflicts), "decided": found.numbers["rows"]}
    numbers["decided"] -= numbers["undecided"] + numbers["conflicts"]
    return Waiting(say("instruct_waits", **numbers), [f"easyllm review {_short(job.run_dir / job.stage)}"])


def _numbers(found: Gate) -> dict[str, Any]:
    return {"sample": 0, "of": 0, "error_rate": 0, "confidence": 0} | found.numbers | {
        "authors": ", ".join(found.authors) or "-"
    }  # fmt: skip


def _short(path: Path) -> str:
    """As a person would type it here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
