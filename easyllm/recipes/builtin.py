"""Data that needs no download: ``builtin:NAME`` in a recipe. Written once into the cache, then a file like any other."""

import ast
import json
import os
import platform
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from easyllm.core.errors import refuse

SHORTEST_CHARACTERS = 80
LONGEST_CHARACTERS = 4000
NOT_PROSE = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__", "pydoc_data"}

Row = dict[str, str]


def materialise(name: str, cache_dir: Path, stage: str, key: str) -> Path:
    """The JSONL file of built-in data ``name``, rows {"src","text","type","id","title"}; INPUT-006 if unknown."""
    if name not in BUILTIN:
        raise refuse("INPUT-006", stage=stage, key=key, name=name, known=", ".join(sorted(BUILTIN)))
    path = cache_dir / "builtin" / f"{name}-{platform.python_version()}.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        with beside.open("w", encoding="utf-8") as file:
            for row in BUILTIN[name]():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    return path


def python_docs() -> Iterator[Row]:
    """Prose that every CPython carries: the language reference of pydoc, then the library's docstrings."""
    seen: set[str] = set()
    for row in [*_topics(), *_docstrings()]:
        if row["text"] not in seen:
            seen.add(row["text"])
            yield row


def _topics() -> Iterator[Row]:
    from pydoc_data.topics import topics

    for title, text in sorted(topics.items()):
        for number, part in enumerate(_parts(text.strip())):
            yield _row("language reference", part, "topic", f"{title}-{number}", title)


def _docstrings() -> Iterator[Row]:
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if NOT_PROSE.isdisjoint(relative.parts):
            module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
            for name, text in _docstrings_of(path):
                title = f"{module}.{name}" if name else module
                for number, part in enumerate(_parts(text)):
                    yield _row("standard library", part, "docstring", f"{title}-{number}", title)


def _docstrings_of(path: Path) -> Iterator[tuple[str, str]]:
    """(name, docstring) of a source file, read and never imported: importing runs code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # old escapes in the library's own sources
        try:
            tree = ast.parse(path.read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            return  # a few files of the library are templates or broken on purpose
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) >= SHORTEST_CHARACTERS and text.isprintable() | ("\n" in text):
                yield getattr(node, "name", ""), text


def _parts(text: str) -> Iterator[str]:
    """``text`` cut between paragraphs into parts of at most LONGEST_CHARACTERS, a longer paragraph left whole."""
    part = ""
    for paragraph in text.split("\n\n"):
        if part and len(part) + len(paragraph) > LONGEST_CHARACTERS:
            yield part
            part = ""
        part = f"{part}\n\n{paragraph}" if part else paragraph
    if part.strip():
        yield part


def _row(source: str, text: str, kind: str, identity: str, title: str) -> Row:
    return {"src": source, "text": text, "type": kind, "id": identity, "title": title}


BUILTIN: dict[str, Callable[[], Iterator[Row]]] = {"python-docs": python_docs}
