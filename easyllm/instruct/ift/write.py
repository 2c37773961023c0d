"""Examples become rows of one format, as JSONL or Parquet, one at a time."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from easyllm.core.errors import refuse
from easyllm.core.messages import say
from easyllm.instruct.ift.example import SEED_KEYS, Example, example_of
from easyllm.instruct.row import Row

SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}

ROWS_AT_ONCE = 1024
"""Of a Parquet file: so many are a row group."""

Values = dict[str, Any]


def _alpaca(example: Example, number: int) -> Values:
    return dict(zip(("instruction", "input", "output"), _task(example, "alpaca"), strict=True))


def _messages(example: Example, number: int) -> Values:
    return {"messages": list(example.messages)}


def _sharegpt(example: Example, number: int) -> Values:
    return {"conversations": [{"from": SPEAKERS[m["role"]], "value": m["content"]} for m in example.messages]}


def _self_instruct(example: Example, number: int) -> Values:
    instruction, given, output = _task(example, "self-instruct")
    return {
        "id": example.id or f"task_{number:06d}",
        "name": example.name,
        "instruction": instruction,
        "instances": [{"input": given, "output": output}],
        "is_classification": example.is_classification,
    }


FORMS: dict[str, Callable[[Example, int], Values]] = {
    "alpaca": _alpaca,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "self-instruct": _self_instruct,
}
"""The formats: what makes the row of an example, the number of which is its id where it has none."""


class RowsFile:
    """A file that rows are added to; its name says whether it is .jsonl or .parquet.

    Self-Instruct rows of one instruction that come one after the other are one row with several instances.
    """

    def __init__(self, path: Path, form: str) -> None:
        self._path, self._form = path, form
        self._file: Any = None
        self._waiting: Values | None = None
        self._waiting_id = ""
        self._ids: Counter[str] = Counter()
        self.rows = 0
        """Examples so far."""
        self.left_out: Counter[str] = Counter()
        """Keys of the rows read that this format has no place for, with how many rows had them."""

    def __enter__(self) -> "RowsFile":
        self._file = _Parquet(self._path, self._form) if self._path.suffix == ".parquet" else _Lines(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._waiting:
            self._file.add(self._waiting)
        self._file.close(kind is None)

    def add(self, example: Example) -> None:
        """Raises UserError IFT-003 where the format cannot hold what is said; nothing is written of it then."""
        values = FORMS[self._form](example, self.rows)
        self.left_out.update(self._unkept(example))
        self.rows += 1
        if self._form != "self-instruct":
            self._file.add(values)
        elif self._waiting and _same_task(self._waiting, values) and example.id in ("", self._waiting_id):
            self._waiting["instances"] += values["instances"]
        else:
            if self._waiting:
                self._file.add(self._waiting)
            self._waiting, self._waiting_id = values | {"id": self._own(values["id"])}, example.id

    def _unkept(self, example: Example) -> frozenset[str]:
        """A task's row may have had its kind without having been read as one with keys (the stage's own rows)."""
        kind = {"is_classification"} if example.is_classification is not None else set()
        return (example.extra | kind) - (SEED_KEYS if self._form == "self-instruct" else frozenset())

    def _own(self, name: str) -> str:
        """Two files that became one may have had the same ids; the second is called otherwise."""
        self._ids[name] += 1
        return name if self._ids[name] == 1 else self._own(f"{name}-{self._ids[name]}")


def write_rows(path: Path, rows: Iterable[Row], form: str) -> None:
    """The stage's rows as one file of ``form``."""
    with RowsFile(path, form) as file:
        for row in rows:
            file.add(example_of(row))


def _task(example: Example, form: str) -> tuple[str, str, str]:
    found = example.as_task()
    if found is None and len(example.messages) == 2 and example.messages[0]["role"] == "user":
        detail = say("row_no_instruction")
        raise refuse("DATA-002", stage="sft2ift", file=example.file, line=example.line, detail=detail)
    if found is None:
        roles = ", ".join(message["role"] for message in example.messages)
        raise refuse("IFT-003", stage="sft2ift", file=example.file, line=example.line, form=form, roles=roles)
    return found


def _same_task(before: Values, values: Values) -> bool:
    return all(before[key] == values[key] for key in ("name", "instruction", "is_classification"))


class _Lines:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def add(self, values: Values) -> None:
        self._file.write(json.dumps(values, ensure_ascii=False) + "\n")

    def close(self, whole: bool) -> None:
        self._file.close()


class _Parquet:
    def __init__(self, path: Path, form: str) -> None:
        from pyarrow import parquet

        self._schema = schema_of(form)
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._batch: list[Values] = []

    def add(self, values: Values) -> None:
        self._batch.append(values)
        if len(self._batch) == ROWS_AT_ONCE:
            self._flush()

    def close(self, whole: bool) -> None:
        if whole and self._batch:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        from pyarrow import RecordBatch

        self._writer.write_batch(RecordBatch.from_pylist(self._batch, self._schema))
        self._batch = []


def schema_of(form: str) -> Any:
    """The columns of a format in Parquet."""
    import pyarrow

    text = pyarrow.string()

    def entries(*names: str) -> Any:
        return pyarrow.list_(pyarrow.struct([(name, text) for name in names]))

    columns = {
        "alpaca": [("instruction", text), ("input", text), ("output", text)],
        "messages": [("messages", entries("role", "content"))],
        "sharegpt": [("conversations", entries("from", "value"))],
        "self-instruct": [
            ("id", text),
            ("name", text),
            ("instruction", text),
            ("instances", entries("input", "output")),
            ("is_classification", pyarrow.bool_()),
        ],
    }
    return pyarrow.schema(columns[form])
