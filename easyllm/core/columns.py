"""Rows of Parquet files, a few at a time, and what is wrong with a file that cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from easyllm.core.errors import UserError, problem

ROWS_AT_ONCE = 256
"""Of a row group: a whole one may hold gigabytes."""

READ_BYTES = 1 << 20


class ColumnRows:
    """(number, row) of every row of a Parquet file, counted from 1; ``position`` is how many of its bytes are read."""

    def __init__(self, path: Path, stage: str) -> None:
        self._path, self._stage = path, stage
        self.position = 0

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with column_faults(self._path, self._stage), open_parquet(self._path) as file:
            number, size, whole = 0, self._path.stat().st_size, max(1, file.metadata.num_rows)
            for batch in file.iter_batches(ROWS_AT_ONCE, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
                self.position = size * number // whole


def open_parquet(path: Path) -> Any:
    from pyarrow import parquet

    # Unbuffered, the reader would hold the columns of a whole row group.
    return parquet.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES)


@contextmanager
def column_faults(path: Path, stage: str) -> Iterator[None]:
    """What pyarrow raises for a broken Parquet or Arrow file, as UserError ROWS-007."""
    from pyarrow import ArrowException

    try:
        yield
    except UnicodeDecodeError as error:
        entry = problem("ROWS-007", stage=stage, file=path, reason=str(error))
        raise UserError(entry) from error
    except (ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the disk's fault, not the file's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(problem("ROWS-007", stage=stage, file=path, reason=reason)) from error
