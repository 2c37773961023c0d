"""What the corpus holds, for people: report.json, report.md and lengths.png.

Nothing in them depends on time or place, so that the same corpus gives the same artifact.
"""

import json
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

from easyllm.corpus.encoding import Counts

PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
LISTED_FILES = 50
"""Files in the Markdown table; report.json lists all."""


def write_report(
    out: Path, files: Sequence[Path], counts: Counts, lengths: "array[int]", ledger: dict[str, Any]
) -> None:
    """``lengths``: tokens of each document, the end-of-document token counted."""
    sizes = numpy.frombuffer(lengths, dtype=numpy.int32)
    report = _report(files, counts, sizes, ledger)
    (out / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (out / "report.md").write_text(_markdown(report), "utf-8")
    _draw(out / "lengths.png", sizes)


def _report(files: Sequence[Path], counts: Counts, sizes: Any, ledger: dict[str, Any]) -> dict[str, Any]:
    names = _names(files)
    return {
        "documents": counts.documents,
        "empty_documents": counts.empty,
        "tokens": counts.tokens,
        "text_bytes": counts.text_bytes,
        "bytes_per_token": round(counts.text_bytes / counts.tokens, 4),
        "vocabulary": ledger,
        "document_tokens_percentiles": {
            str(p): int(v)
            for p, v in zip(PERCENTILES, numpy.percentile(sizes, PERCENTILES, method="lower"), strict=True)
        },
        "files": [
            {"name": name, "documents": documents, "tokens": tokens}
            for name, documents, tokens in zip(names, counts.file_documents, counts.file_tokens, strict=True)
        ],
    }


def _names(files: Sequence[Path]) -> list[str]:
    """Paths below the folder that all files share: absolute ones would make the artifact depend on its place."""
    root = os.path.commonpath([path.parent.absolute() for path in files])
    return [os.path.relpath(path.absolute(), root) for path in files]


def _markdown(report: dict[str, Any]) -> str:
    ledger, percentiles = report["vocabulary"], report["document_tokens_percentiles"]
    largest = sorted(report["files"], key=lambda row: (-row["tokens"], row["name"]))[:LISTED_FILES]
    left = len(report["files"]) - len(largest)
    held = f"{report['documents']:,} documents, {report['tokens']:,} tokens, {report['text_bytes']:,} bytes of text"
    lines = [
        "# Corpus",
        "",
        f"{held} ({report['bytes_per_token']:.2f} a token); {report['empty_documents']:,} empty documents left out.",
        f"Vocabulary of {ledger['tokenizer_size']:,}; `{ledger['eod']}` ({ledger['eod_id']}) ends each document.",
        "",
        "| documents up to this share, % | tokens |",
        "|---:|---:|",
        *[f"| {share} | {tokens:,} |" for share, tokens in percentiles.items()],
        "",
        "| file | documents | tokens |",
        "|---|---:|---:|",
        *[f"| {_cell(row['name'])} | {row['documents']:,} | {row['tokens']:,} |" for row in largest],
        *([f"| {left:,} smaller files | in report.json | |"] if left else []),
        "",
        "![Tokens per document](lengths.png)",
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _draw(path: Path, sizes: Any) -> None:
    """A histogram of document lengths, both axes logarithmic: lengths of real text spread over decades."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    edges = numpy.geomspace(max(1, sizes.min()), sizes.max() + 1, 50)
    axes.hist(sizes, bins=list(edges))
    axes.set(xscale="log", yscale="log", xlabel="tokens per document", ylabel="documents")
    axes.set_title(f"{len(sizes):,} documents, median {int(numpy.median(sizes)):,} tokens")
    figure.savefig(path, dpi=120, metadata={"Software": None})
