"""The corpus as a person looks at it: figures as JSON and Markdown, document lengths as a picture."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PERCENTILES = (0, 10, 50, 90, 99, 100)


@dataclass
class Tally:
    """Counted while the corpus is written."""

    documents: int = 0
    empty_documents: int = 0
    tokens: int = 0
    """End-of-document tokens included."""
    text_bytes: int = 0
    """UTF-8 bytes of all texts."""
    tokens_by_file: dict[str, int] = field(default_factory=dict)


def write_report(folder: Path, tally: Tally, lengths: Any, ledger: Mapping[str, Any]) -> None:
    """report.json, report.md and lengths.png in ``folder``; ``lengths`` are the tokens of every document."""
    lengths = np.asarray(lengths)
    percentiles = {f"p{p}": int(np.percentile(lengths, p)) for p in PERCENTILES}
    bytes_per_token = tally.text_bytes / tally.tokens
    data = asdict(tally) | {"bytes_per_token": bytes_per_token, "length": percentiles, "ledger": dict(ledger)}
    (folder / "report.json").write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (folder / "report.md").write_text(_markdown(tally, percentiles, bytes_per_token, ledger), "utf-8")
    _picture(folder / "lengths.png", lengths)


def _markdown(tally: Tally, percentiles: dict[str, int], bytes_per_token: float, ledger: Mapping[str, Any]) -> str:
    rows = [
        ("documents", f"{tally.documents:,}"),
        ("empty documents, left out", f"{tally.empty_documents:,}"),
        ("tokens", f"{tally.tokens:,}"),
        ("bytes of text", f"{tally.text_bytes:,}"),
        ("bytes per token", f"{bytes_per_token:.2f}"),
        ("vocabulary", f"{ledger['tokenizer_size']:,}"),
        *[(f"document length, {name}", f"{value:,} tokens") for name, value in percentiles.items()],
        *[(f"tokens of {name}", f"{value:,}") for name, value in tally.tokens_by_file.items()],
    ]
    lines = ["# Corpus", "", "| what | value |", "|---|---|", *[f"| {name} | {value} |" for name, value in rows]]
    return "\n".join([*lines, "", "![document lengths](lengths.png)", ""])


def _picture(path: Path, lengths: Any) -> None:
    from matplotlib.figure import Figure  # the object interface: no window system is asked for

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    edges = np.geomspace(1, max(2, int(lengths.max()) + 1), 40)
    axes.hist(lengths, bins=list(edges), color="#4472a8")
    axes.set_xscale("log")
    axes.set_xlabel("tokens in a document")
    axes.set_ylabel("documents")
    axes.set_title(f"{len(lengths):,} documents, {int(lengths.sum()):,} tokens")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
