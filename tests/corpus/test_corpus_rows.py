"""The reader of rows: every kind of file gives the same rows, every fault has its line."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest
import zstandard

from easyllm.core import rows
from easyllm.core.errors import UserError
from easyllm.core.rows import Rows, read_rows, read_text

ROWS = [{"text": "a\r\nb\tc", "id": 1}, {"text": "中文 é 🧑‍🚀", "id": 2}, {"text": "", "id": 3}]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
ONE_MIB_ROW = json.dumps({"text": "x" * (1 << 20)}).encode() + b"\n"


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def noise(n: int) -> str:
    """Text that does not compress well, the same for the same number."""
    return hashlib.sha512(str(n).encode()).hexdigest()


def refusal(path: Path) -> tuple[str, int | None]:
    """(code, line) of the one problem that reading ``path`` to its end meets."""
    with pytest.raises(UserError) as caught:
        list(read_rows(path, "corpus"))
    (only,) = caught.value.problems
    assert only.file == str(path)
    assert only.what
    assert only.fix
    return only.code, only.line


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", JSONL),
        ("no-last-line-end.jsonl", JSONL.rstrip(b"\n")),
        ("windows.jsonl", JSONL.replace(b"\n", b"\r\n")),
        ("byte-order-mark.jsonl", b"\xef\xbb\xbf" + JSONL),
        ("a.jsonl.gz", gzip.compress(JSONL)),
        ("a.jsonl.zst", zstandard.compress(JSONL)),
        ("long-window.jsonl.zst", zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
        ).compress(JSONL)),
        ("rows-under-json.json", JSONL),
        ("list.json", json.dumps(ROWS).encode()),
        ("pretty-list.json", json.dumps(ROWS, indent=2, ensure_ascii=False).encode()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_plain_compressed_and_listed_rows_are_the_same_rows(tmp_path: Path, name: str, data: bytes) -> None:
    assert [row for _, row in read_rows(write(tmp_path, name, data), "corpus")] == ROWS


def test_files_glued_together_with_cat_are_read_to_the_end(tmp_path: Path) -> None:
    for suffix, packed in (("gz", gzip.compress(JSONL)), ("zst", zstandard.compress(JSONL))):
        path = write(tmp_path, f"two.jsonl.{suffix}", packed + packed)
        assert [row for _, row in read_rows(path, "corpus")] == ROWS + ROWS


def test_lines_are_counted_past_blank_ones_and_inside_a_pretty_list(tmp_path: Path) -> None:
    path = write(tmp_path, "blank.jsonl", b'\n{"a": 1}\n\n  \n{"a": 2}\n')
    assert [line for line, _ in read_rows(path, "corpus")] == [2, 5]
    path = write(tmp_path, "list.json", b'[\n {"a": 1},\n {\n  "a": 2\n }, {"a": 3}\n]\n')
    assert [line for line, _ in read_rows(path, "corpus")] == [2, 3, 5]
    path = write(tmp_path, "low.json", b'\n\n[{"a": 1},\n{"a": 2}]')
    assert [line for line, _ in read_rows(path, "corpus")] == [3, 4]
    path = write(tmp_path, "low-rows.json", b'\n\n{"a": 1}\n{"a": 2}')
    assert [line for line, _ in read_rows(path, "corpus")] == [3, 4]


def test_empty_files_and_empty_lists_hold_no_rows(tmp_path: Path) -> None:
    for name, data in (("a.jsonl", b""), ("b.json", b""), ("c.json", b"[]"), ("d.jsonl.zst", b"")):
        assert list(read_rows(write(tmp_path, name, data), "corpus")) == []


@pytest.mark.parametrize(
    "line",
    [b'{"a": 1,}', b'{"a": "cut', b"{'a': 1}", b'{"a": 1} {"a": 2}', b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"],
    ids=["comma", "cut", "quotes", "two", "deep", "digits"],
)
def test_a_line_that_is_not_json_is_named_with_its_line(tmp_path: Path, line: bytes) -> None:
    assert refusal(write(tmp_path, "a.jsonl", b'{"a": 1}\n\n' + line + b'\n{"a": 2}\n')) == ("ROWS-001", 3)


def test_a_bad_line_inside_a_list_is_named_with_its_line_and_column(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", b'[\n{"a": 1},\n{"a": 2,}\n]')
    with pytest.raises(UserError) as caught:
        list(read_rows(path, "corpus"))
    (only,) = caught.value.problems
    assert (only.code, only.line) == ("ROWS-001", 3)
    assert only.params["column"] in (8, 9)  # the trailing comma since Python 3.13, the bracket after it before


@pytest.mark.parametrize(
    ("line", "kind"), [("[1, 2]", "list"), ('"text"', "string"), ("3", "number"), ("null", "null")]
)
def test_a_row_that_is_no_object_is_named_for_what_it_is(tmp_path: Path, line: str, kind: str) -> None:
    path = write(tmp_path, "a.jsonl", f'{{"a": 1}}\n{line}\n'.encode())
    assert refusal(path) == ("ROWS-002", 2)
    with pytest.raises(UserError, match=f"this one is a {kind}"):
        list(read_rows(path, "corpus"))


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_cut_broken_and_falsely_named_compressed_files_are_refused(tmp_path: Path, suffix: str) -> None:
    body = b"".join(json.dumps({"text": f"row {n} " * 9}).encode() + b"\n" for n in range(9000))
    checked = zstandard.ZstdCompressor(write_checksum=True)  # as the command zstd writes it
    packed = gzip.compress(body) if suffix == "gz" else checked.compress(body)
    middle = len(packed) // 2
    changed = packed[:middle] + bytes(byte ^ 0xFF for byte in packed[middle : middle + 50]) + packed[middle + 50 :]
    for name, data in (("cut", packed[:-9]), ("half", packed[:middle]), ("changed", changed), ("plain", body)):
        code, _ = refusal(write(tmp_path, f"{name}.jsonl.{suffix}", data))
        assert code in ("ROWS-003", "ROWS-001", "ROWS-004") if name == "changed" else code == "ROWS-003", name


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "latin-1"])
def test_another_encoding_than_utf8_is_named_with_its_line_and_a_guess(tmp_path: Path, encoding: str) -> None:
    text = {"gb18030": "汉字编码", "utf-16": "汉字", "latin-1": "café é"}[encoding]
    line = (json.dumps({"text": text}, ensure_ascii=False) + "\n").encode(encoding)
    head = b"" if encoding == "utf-16" else b'{"text": "good"}\n'
    path = write(tmp_path, "a.jsonl", head + line)
    assert refusal(path) == ("ROWS-004", 1 if encoding == "utf-16" else 2)
    guess = {"gb18030": "GB18030", "utf-16": "UTF-16", "latin-1": "LATIN1"}[encoding]
    with pytest.raises(UserError, match=f"iconv -f {guess} -t UTF-8"):
        list(read_rows(path, "corpus"))


def test_half_an_emoji_is_refused_and_a_whole_one_read(tmp_path: Path) -> None:
    assert refusal(write(tmp_path, "a.jsonl", b'{"text": "x"}\n{"text": "half \\ud83d"}\n')) == ("ROWS-005", 2)
    whole = write(tmp_path, "b.jsonl", b'{"text": "\\ud83d\\ude00"}\n')
    assert [row for _, row in read_rows(whole, "corpus")] == [{"text": "😀"}]


def test_a_row_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "a.jsonl", b'{"text": "short"}\n' + ONE_MIB_ROW)
    assert len(list(read_rows(path, "corpus"))) == 2
    monkeypatch.setattr(rows, "LONGEST_ROW_BYTES", 1 << 20)
    assert refusal(path) == ("ROWS-006", 2)
    text = write(tmp_path, "a.txt", ONE_MIB_ROW)
    with pytest.raises(UserError, match="ROWS-006"):
        read_text(text, "corpus")


def test_the_position_runs_through_the_file_as_it_lies_on_disk(tmp_path: Path) -> None:
    body = b"".join(json.dumps({"text": noise(n)}).encode() + b"\n" for n in range(10_000))
    for name, data in (
        ("a.jsonl", body),
        ("a.jsonl.gz", gzip.compress(body)),
        ("a.jsonl.zst", zstandard.compress(body)),
    ):
        reader = Rows(write(tmp_path, name, data), "corpus")
        positions = [reader.position for _ in reader]
        assert positions == sorted(positions)
        assert positions[-1] == len(data)
        assert positions[len(positions) // 2] < 0.8 * len(data)
