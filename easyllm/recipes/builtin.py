"""Data that needs no download: ``builtin:NAME`` in a recipe, a file like any other.

``python-docs`` is what every CPython carries: the language reference (``pydoc_data.topics``) cut at its headings,
and the docstrings of the standard library, read from its source files. About 2 MB, written once into the cache; rows
are ``{"src", "text", "type", "id", "title"}``.

``seeds-en`` and ``seeds-zh`` are the seed tasks of instruct, which ship as files; there, ``builtin:en`` names them.
"""

import ast
import json
import os
import platform
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from easyllm.core.artifact import sync_directory
from easyllm.core.errors import refuse

Row = dict[str, str]
Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

REVISION = 1
"""Raise it when the rows change, so that no cache answers with the old ones."""

SHORTEST_CHARACTERS = 80
"""Shorter texts are one-line notes such as ``Return self.``: many, and nothing to learn from."""

PACKAGE = Path(__file__).parent.parent

NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "pydoc_data"}

_HEADING = re.compile(r"^(?P<title>\S.*)\n(?P<rule>[*=\-~^\"])(?P=rule){2,}$", re.MULTILINE)


def materialise(name: str, cache_dir: Path, stage: str, key: str) -> Path:
    """The JSONL file of built-in data ``name``, made now if the cache lacks it. UserError INPUT-006 if unknown."""
    if name in SHIPPED:
        return SHIPPED[name]
    make = BUILTIN.get(name)
    if make is None:
        # A section that looks on a shelf writes names without it, and has no use for what stands elsewhere.
        shelf = SEEDS if name.startswith(SEEDS) else ""
        known = sorted(n.removeprefix(SEEDS) for n in SHIPPED) if shelf else sorted(BUILTIN)
        raise refuse("INPUT-006", stage=stage, key=key, name=name.removeprefix(shelf), known=", ".join(known))
    path = cache_dir / "builtin" / f"{name}-{platform.python_version()}-r{REVISION}.jsonl"
    if not path.is_file():
        _write(path, _distinct(make()))
    return path


def python_docs() -> Iterator[Row]:
    """The language reference, then the docstrings of the standard library, each in the order of its names."""
    yield from language_reference()
    yield from standard_library(Path(sysconfig.get_path("stdlib")))


def language_reference() -> Iterator[Row]:
    """One row for each section of each topic that ``help()`` knows."""
    from pydoc_data.topics import topics

    for topic in sorted(topics):
        for number, (title, text) in enumerate(_sections(topics[topic])):
            whole = f"{title}\n\n{text.strip()}" if title else text.strip()
            yield _row("reference", f"reference/{topic}/{number}", title, whole)


def standard_library(root: Path) -> Iterator[Row]:
    """One row for each module, class (its methods with it) and function below ``root`` that is documented."""
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if NOT_LIBRARY.isdisjoint(name.parts):
            yield from _docstrings(".".join(name.with_suffix("").parts).removesuffix(".__init__"), path)


def _docstrings(module: str, path: Path) -> Iterator[Row]:
    """Of one source file, which is read and never imported: importing runs code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # old escapes in the library's own sources
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:
            return  # some distributions ship templates and files broken on purpose
    yield _row("docstring", module, f"module {module}", ast.get_docstring(tree) or "")
    for node in tree.body:
        if isinstance(node, Documented):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            yield _row("docstring", f"{module}.{node.name}", f"{kind} {module}.{node.name}", _documented(node))


def _documented(node: Documented) -> str:
    """Signature and docstring of ``node`` and, for a class, of its documented methods; empty where there is none."""
    methods = [m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)]
    nodes = [node, *methods] if isinstance(node, ast.ClassDef) else [node]
    return "\n\n".join(f"{_signature(n)}\n\n{text}" for n in nodes if (text := ast.get_docstring(n)))


def _signature(node: Documented) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}({bases})" if bases else f"class {node.name}"
    return f"def {node.name}({ast.unparse(node.args)})"


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """(title, text below it) of every underlined heading; text before the first one has no title."""
    marks = list(_HEADING.finditer(text))
    ends = [mark.start() for mark in marks] + [len(text)]
    yield "", text[: ends[0]]
    for mark, end in zip(marks, ends[1:], strict=True):
        if text[mark.end() : end].strip():
            yield mark["title"], text[mark.end() : end]


def _row(kind: str, name: str, title: str, text: str) -> Row:
    return {"src": "python-docs", "text": text.strip(), "type": kind, "id": name, "title": title}


def _distinct(rows: Iterator[Row]) -> Iterator[Row]:
    """Without the short ones and those whose text came before: the reference repeats whole sections."""
    seen: set[str] = set()
    for row in rows:
        if len(row["text"]) >= SHORTEST_CHARACTERS and row["text"] not in seen:
            seen.add(row["text"])
            yield row


def _write(path: Path, rows: Iterator[Row]) -> None:
    """Write beside, then rename: nobody reads half a file, and two writers do not disturb each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    sync_directory(path.parent)


BUILTIN: dict[str, Callable[[], Iterator[Row]]] = {"python-docs": python_docs}

SEEDS = "seeds-"
SHIPPED = {f"{SEEDS}{code}": PACKAGE / "instruct" / f"seeds.{code}.jsonl" for code in ("en", "zh")}
