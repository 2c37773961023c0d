"""The folder beside the artifact that money and people filled, and that no run deletes: runs/<name>/instruct.kept."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.core.artifact import write_whole
from easyllm.core.errors import refuse
from easyllm.core.freshness import digest_now, fingerprint
from easyllm.core.rows import read_rows
from easyllm.core.stage import Job
from easyllm.instruct.config import InstructConfig
from easyllm.instruct.review.folder import KEPT, LOG, ROWS
from easyllm.instruct.row import Row, row_of

NAME = "rows"


@dataclass(frozen=True)
class Kept:
    """Its files. ``made.json`` says which request the rows were made for, so that nothing is made twice."""

    folder: Path

    @property
    def rows_file(self) -> Path:
        return self.folder / f"{NAME}{ROWS}"

    @property
    def log_file(self) -> Path:
        return self.folder / f"{NAME}{LOG}"

    @property
    def dropped_file(self) -> Path:
        return self.folder / "dropped.jsonl"

    @property
    def made_file(self) -> Path:
        return self.folder / "made.json"

    def made_for(self, job: Job[InstructConfig]) -> dict[str, Any] | None:
        """What was noted when rows were made for this very job; None where they have to be made.

        Raises UserError INSTRUCT-008 where they were made for another job and a person has edited the file since.
        """
        if not self.made_file.is_file() or not self.rows_file.is_file():
            return None
        note: dict[str, Any] = json.loads(self.made_file.read_text("utf-8"))
        if note["fingerprint"] == fingerprint(job):
            return note
        if note["rows"] != digest_now(self.rows_file):
            raise refuse("INSTRUCT-008", stage=job.stage, key=job.stage, file=self.rows_file)
        return None

    def keep(self, job: Job[InstructConfig], rows: Iterable[Row], dropped: Iterable[Row], note: dict[str, Any]) -> None:
        """Each file whole; the note is written last."""
        self.made_file.unlink(missing_ok=True)
        write_whole(self.rows_file, lines_of(rows))
        write_whole(self.dropped_file, lines_of(dropped))
        told = note | {"fingerprint": fingerprint(job), "rows": digest_now(self.rows_file)}
        write_whole(self.made_file, json.dumps(told, ensure_ascii=False, indent=1) + "\n")

    def dropped(self) -> list[Row]:
        return [row_of(line) for _, line in read_rows(self.dropped_file, "instruct")]


def kept_of(job: Job[InstructConfig]) -> Kept:
    return Kept(job.run_dir / KEPT)


def lines_of(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row.as_json(), ensure_ascii=False) + "\n" for row in rows)
