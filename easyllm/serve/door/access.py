"""Who may ask the server, how much, and what is written down of it. Keys themselves are never in here."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from easyllm.core.addresses import is_loopback
from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.inputs import written_path
from easyllm.serve.config import ServeConfig
from easyllm.serve.door.keys import read_keys


@dataclass(frozen=True)
class Access:
    """The settings of a server's door; each is explained in ``ServeConfig``."""

    keys_file: Path | None = None
    key_variable: str | None = None
    open_without_keys: bool = False
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    cors_origins: tuple[str, ...] = ()
    host_names: tuple[str, ...] = ()
    request_log: str | None = None
    log_prompts: bool = False

    @property
    def has_keys(self) -> bool:
        return bool(self.keys_file or self.key_variable)


def access_of(config: ServeConfig) -> Access:
    """The door that a recipe asks for."""
    return Access(
        written_path(config.keys_file) if config.keys_file else None,
        config.key_variable, config.open_without_keys, config.requests_per_minute, config.tokens_per_minute,
        config.cors_origins, config.host_names, config.request_log, config.log_prompts,
    )  # fmt: skip


def flag(name: str, value: str) -> list[str]:
    """A flag with its value. One that begins with - would be read as a flag itself, so the two are then one word."""
    return [f"{name}={value}"] if value.startswith("-") else [name, value]


def access_flags(access: Access) -> list[str]:
    """The same door as flags of the server process."""
    single = {
        "--keys-file": access.keys_file, "--key-variable": access.key_variable,
        "--requests-per-minute": access.requests_per_minute, "--tokens-per-minute": access.tokens_per_minute,
        "--request-log": access.request_log,
    }  # fmt: skip
    flags = [part for name, value in single.items() if value is not None for part in flag(name, str(value))]
    flags += [part for origin in access.cors_origins for part in flag("--cors-origin", origin)]
    flags += [part for name in access.host_names for part in flag("--host-name", name)]
    flags += ["--open-without-keys"] if access.open_without_keys else []
    return flags + (["--log-prompts"] if access.log_prompts else [])


def add_access_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``access_flags``. A key is no flag: everybody on a machine can read command lines."""
    parser.add_argument("--keys-file", type=Path, help="file with API keys, one a line: name:key, or key")
    parser.add_argument("--key-variable", help="environment variable with API keys, separated by commas")
    parser.add_argument("--open-without-keys", action="store_true", help="let other machines ask without any key")
    parser.add_argument("--requests-per-minute", type=int, help="of each key, or of each client address")
    parser.add_argument("--tokens-per-minute", type=int, help="in prompts and answers, of each key or client address")
    parser.add_argument("--cors-origin", action="append", default=[], help="page that may ask from a browser; repeat")
    parser.add_argument("--host-name", action="append", default=[], help="further name of this server; repeat")
    parser.add_argument("--request-log", help="stderr, or a file: one line of JSON per request")
    parser.add_argument("--log-prompts", action="store_true", help="prompts and answers go into the request log too")


def access_given(given: argparse.Namespace) -> Access:
    """The door that the flags ask for."""
    return Access(
        given.keys_file, given.key_variable, given.open_without_keys, given.requests_per_minute,
        given.tokens_per_minute, tuple(given.cors_origin), tuple(given.host_name), given.request_log,
        given.log_prompts,
    )  # fmt: skip


def access_problems(host: str, access: Access) -> list[Problem]:
    """SERVE-040 to SERVE-043, SERVE-045, SERVE-046 and SERVE-048: a door that does not close, or contradicts itself."""
    found: list[Problem] = []
    if access.has_keys:
        try:
            read_keys(access.keys_file, access.key_variable)
        except UserError as error:
            found += error.problems
        if access.open_without_keys:
            found.append(problem("SERVE-048", stage="serve", key="serve.open_without_keys"))
    elif not (is_loopback(host) or access.open_without_keys):
        found.append(problem("SERVE-043", stage="serve", key="serve.host", host=host))
    for origin in access.cors_origins:
        if not is_origin(origin):
            found.append(problem("SERVE-045", stage="serve", key="serve.cors_origins", origin=origin))
    if access.log_prompts and not access.request_log:
        found.append(problem("SERVE-046", stage="serve", key="serve.log_prompts"))
    return found


def is_origin(text: str) -> bool:
    """Whether ``text`` is scheme://host[:port] as browsers write it, or * for any page."""
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, a bracket that does not close
        return False
    return text == "*" or (known and text == f"{parts.scheme}://{parts.netloc}".lower() and "@" not in text)
