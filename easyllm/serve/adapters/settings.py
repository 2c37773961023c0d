"""What adapters a server begins with, and how many more an operator may hand it while it runs. Light: no torch."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.serve.config import ServeConfig


@dataclass(frozen=True)
class AdapterSettings:
    """Everything the server process has to know of adapters."""

    paths: tuple[tuple[str, Path], ...] = ()
    """(name that requests ask for, directory) of those that are there from the start."""
    most: int = 8
    """Adapters held at once."""
    most_rank: int = 256
    """Largest rank of any layer of an adapter."""
    most_bytes: int = 4_000_000_000
    """Memory of all adapters together."""
    base_digest: str | None = None
    """Of the base's content; adapters whose manifest names another base are refused. None: nobody knows it."""
    admin: bool = False
    """Whether adapters may be loaded and unloaded over HTTP."""
    folder: Path | None = None
    """The only folder that adapters loaded over HTTP may come from."""

    @property
    def wanted(self) -> bool:
        """Whether the engine has to be ready for adapters at all."""
        return bool(self.paths) or self.admin


def adapter_settings(
    config: ServeConfig, paths: tuple[tuple[str, Path], ...], base_digest: str | None
) -> AdapterSettings:
    """What ``config`` asks for, with its adapters at ``paths``."""
    return AdapterSettings(
        paths, config.max_adapters, config.max_adapter_rank, round(config.max_adapters_gb * 1e9), base_digest,
        config.admin, Path(config.adapters_dir) if config.adapters_dir else None,
    )  # fmt: skip


def adapter_flags(settings: AdapterSettings) -> list[str]:
    """The same for the command line of a server process; empty where there is nothing to say."""
    if not settings.wanted:
        return []
    flags = [f"--adapter={name}={path}" for name, path in settings.paths]
    flags += [
        "--max-adapters", str(settings.most), "--max-adapter-rank", str(settings.most_rank),
        "--max-adapter-bytes", str(settings.most_bytes),
    ]  # fmt: skip
    if settings.base_digest:
        flags += ["--base-digest", settings.base_digest]
    if settings.admin:
        flags += ["--admin", "--adapters-dir", str(settings.folder)]
    return flags


def add_adapter_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``adapter_flags`` writes."""
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="NAME=PATH", help="a LoRA adapter; repeatable"
    )
    parser.add_argument("--base-digest", help="digest of the model, which the manifests of adapters must name")
    parser.add_argument("--max-adapters", type=int, default=AdapterSettings.most)
    parser.add_argument("--max-adapter-rank", type=int, default=AdapterSettings.most_rank)
    parser.add_argument("--max-adapter-bytes", type=int, default=AdapterSettings.most_bytes)
    parser.add_argument("--admin", action="store_true", help="let adapters be loaded and unloaded over HTTP")
    parser.add_argument("--adapters-dir", type=Path, help="with --admin: the only folder they may come from")


def adapters_of(given: Any) -> AdapterSettings:
    """The settings in parsed arguments."""
    pairs = [text.partition("=") for text in given.adapter]
    return AdapterSettings(
        tuple((name, Path(path)) for name, _, path in pairs), given.max_adapters, given.max_adapter_rank,
        given.max_adapter_bytes, given.base_digest, given.admin, given.adapters_dir,
    )  # fmt: skip
