"""Texts out of one column of a Parquet or Arrow file, a row group or record batch at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from easyllm.core.columns import ROWS_AT_ONCE, column_faults, open_parquet
from easyllm.corpus.documents import STAGE, missing, no_text

_FILE_MAGIC = b"ARROW1"
"""Arrow's file format begins so; its stream format, which Hugging Face datasets are kept in, does not."""


def texts_of(path: Path, column: str, groups: tuple[int, int] | None) -> Iterator[tuple[int, str]]:
    """(bytes of the file read so far, text) of every row of ``groups``, or of all. Raises UserError as documents do."""
    begin, end = groups or (0, None)
    with column_faults(path, STAGE):
        yield from (_parquet if path.suffix == ".parquet" else _arrow)(path, column, begin, end)


def group_bytes(path: Path, column: str) -> Iterator[int]:
    """Bytes that the text of each row group or record batch takes. Raises UserError as ``texts_of`` does."""
    with column_faults(path, STAGE):
        if path.suffix == ".parquet":
            with _open_parquet(path, column) as file:
                place = _parquet_column(file, column)
                for number in range(file.num_row_groups):
                    yield file.metadata.row_group(number).column(place).total_uncompressed_size
        else:
            for batch in _batches(path, column):
                yield batch.column(column).get_total_buffer_size()


def _parquet(path: Path, column: str, begin: int, end: int | None) -> Iterator[tuple[int, str]]:
    with _open_parquet(path, column) as file:
        meta, size = file.metadata, path.stat().st_size
        numbers = range(begin, file.num_row_groups if end is None else end)
        row = sum(meta.row_group(number).num_rows for number in range(begin))
        for batch in file.iter_batches(ROWS_AT_ONCE, list(numbers), [column], use_threads=False):
            for text in _texts(batch.column(0), column, path, row):
                row += 1
                yield size * row // meta.num_rows, text


def _open_parquet(path: Path, column: str) -> Any:
    file = open_parquet(path)
    _require_text(file.schema_arrow, column, path)
    return file


def _parquet_column(file: Any, column: str) -> int:
    names = [file.metadata.schema.column(n).path for n in range(file.metadata.num_columns)]
    return names.index(column)


def _arrow(path: Path, column: str, begin: int, end: int | None) -> Iterator[tuple[int, str]]:
    row, size = 0, path.stat().st_size
    for number, batch in enumerate(_batches(path, column)):
        if end is not None and number >= end:
            return
        if number >= begin:
            for offset in range(0, batch.num_rows, ROWS_AT_ONCE):
                texts = batch.column(column).slice(offset, ROWS_AT_ONCE)
                for text in _texts(texts, column, path, row + offset):
                    yield size, text
        row += batch.num_rows


def _batches(path: Path, column: str) -> Iterator[Any]:
    """Mapped into memory: a batch that is passed over is not read."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as source:
        if source.read(len(_FILE_MAGIC)) == _FILE_MAGIC:
            file = pyarrow.ipc.open_file(source)
            _require_text(file.schema, column, path)
            yield from (file.get_batch(number) for number in range(file.num_record_batches))
            return
        source.seek(0)
        stream = pyarrow.ipc.open_stream(source)
        _require_text(stream.schema, column, path)
        yield from stream


def _require_text(schema: Any, column: str, path: Path) -> None:
    from pyarrow import types

    if column not in schema.names:
        raise missing(column, schema.names, path, None)
    kind = schema.field(column).type
    inner = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)):
        raise no_text(column, str(kind), path, None)


def _texts(values: Any, column: str, path: Path, rows_before: int) -> Iterator[str]:
    for row, text in enumerate(values.to_pylist(), rows_before + 1):
        if text is None:
            raise no_text(column, "null", path, row)
        yield text
