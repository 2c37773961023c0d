"""API keys: read from a file or the environment, compared in constant time, never told."""

import hashlib
import hmac
import os
import stat
from pathlib import Path

from easyllm.core.errors import refuse
from easyllm.core.messages import say

SHORTEST_KEY = 16
"""Characters. Fewer can be guessed over a network."""


class KeyRing:
    """The keys that open this server. Only their SHA-256 digests are kept in memory."""

    def __init__(self, file: Path | None, variable: str | None) -> None:
        """Raises UserError SERVE-040 to SERVE-042."""
        self._file, self._variable = file, variable
        self._digests: list[tuple[str, bytes]] = []
        self.read_again()

    def read_again(self) -> int:
        """Take the keys as they are now; how many there are. Raises UserError and keeps the old ones."""
        found = read_keys(self._file, self._variable)
        self._digests = [(name, digest(key)) for name, key in found]
        return len(found)

    def holder(self, presented: str) -> str | None:
        """The name of the key, None where it is none of ours. Takes as long for a near miss as for a far one."""
        offered = digest(presented)
        holder = None
        for name, known in self._digests:
            if hmac.compare_digest(offered, known):
                holder = name
        return holder


def digest(key: str) -> bytes:
    """Of equal length for every key, so that a comparison does not tell how long one is."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read_keys(file: Path | None, variable: str | None) -> list[tuple[str, str]]:
    """(name, key) of each key. Raises UserError SERVE-040 to SERVE-042; no text of theirs holds a key."""
    found: list[tuple[str, str]] = []
    if file:
        try:
            found += parse_keys(read_private(file).splitlines())
        except ValueError as error:
            raise refuse(
                "SERVE-040", stage="serve", key="serve.keys_file", path=str(file), reason=str(error)
            ) from error
    if variable:
        try:
            lines = os.environ.get(variable, "").replace(",", "\n").splitlines()
            found += parse_keys(lines, {name for name, _ in found}, {key for _, key in found})
        except ValueError as error:
            reason = str(error)
            raise refuse(
                "SERVE-042", stage="serve", key="serve.key_variable", variable=variable, reason=reason
            ) from error
    return found


def read_private(file: Path) -> str:
    """The file's text. Raises UserError SERVE-041 where others may read it, ValueError where it cannot be read."""
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & stat.S_IRWXO:
            raise refuse("SERVE-041", stage="serve", key="serve.keys_file", path=str(file), mode=f"{mode:04o}")
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(say("keys_no_text")) from error
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


def parse_keys(lines: list[str], names: set[str] | None = None, keys: set[str] | None = None) -> list[tuple[str, str]]:
    """(name, key) of each line; ``names`` and ``keys`` are taken already.

    A line is ``name:key`` or ``key``; empty ones and those that begin with # say nothing. Raises ValueError.
    """
    names, keys = names or set(), keys or set()
    found = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, colon, key = (part.strip() for part in text.partition(":"))
        if not colon:
            name, key = f"key-{number}", text
        if not name or not name.isprintable():
            raise ValueError(say("keys_no_name", line=number))
        if len(key) < SHORTEST_KEY:
            raise ValueError(say("keys_short", line=number, characters=len(key), least=SHORTEST_KEY))
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(say("keys_odd", line=number))
        if name in names or key in keys:
            raise ValueError(say("keys_twice", line=number))
        names, keys = names | {name}, keys | {key}
        found.append((name, key))
    if not found:
        raise ValueError(say("keys_none"))
    return found


def offered_key(authorization: str) -> str | None:
    """The key of an ``Authorization`` header; None where it is of another kind."""
    scheme, _, key = authorization.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None
