"""Content digests. A file is read again only when its size, time or inode changed since it was last hashed."""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any


def of_value(value: Any) -> str:
    """Digest of any JSON value; equal values give equal digests whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def of_file(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Digests:
    """File digests remembered beside the runs, so that asking twice about the same bytes is free."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        if store.is_file():
            try:
                self._known = json.loads(store.read_text("utf-8"))
            except ValueError:
                self._known = {}  # a cut cache costs a re-read, never a wrong answer

    def of_file(self, path: Path) -> str:
        """sha256 of the file, from memory when its stat is unchanged."""
        stat = path.stat()
        mark = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._known.get(str(path.absolute()))
        if known and known[:3] == mark:
            return str(known[3])
        digest = of_file(path)
        self._known[str(path.absolute())] = [*mark, digest]
        self._changed = True
        return digest

    def of_files(self, files: Iterable[Path], root: Path | None = None) -> str:
        """One digest over several files: their names (below ``root``, else bare) and their contents."""
        rows = [(str(f.relative_to(root)) if root else f.name, self.of_file(f)) for f in files]
        return of_value(rows)

    def save(self) -> None:
        """Keep what was learned. Where the runs' folder cannot be written nothing is kept: it costs a re-read."""
        if not self._changed:
            return
        beside = self._store.with_name(f"{self._store.name}.{os.getpid()}")
        with suppress(OSError):
            self._store.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(self._known), "utf-8")
            os.replace(beside, self._store)
            self._changed = False
