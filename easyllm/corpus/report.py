"""What the corpus holds, for people: report.json, report.md and lengths.png.

Nothing in them depends on time or place, so that the same corpus gives the same artifact.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easyllm.corpus.clean.dropped import Cleaned
from easyllm.corpus.clean.report import cleaning_markdown, cleaning_report
from easyllm.corpus.gather import Gathered
from easyllm.corpus.shards import Shard
from easyllm.corpus.sources import Source, files_of

PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
LISTED_FILES = 50
"""Files in the Markdown table; report.json lists all."""


def write_report(
    out: Path,
    sources: Sequence[Source],
    parts: Sequence[str],
    gathered: Gathered,
    total: Shard,
    ledger: dict[str, Any],
    cleaned: Cleaned | None,
) -> int:
    """Write the three files; the number of duplicates, which is counted for them."""
    lengths = gathered.length_counts()
    duplicates = gathered.duplicates()
    report = _report(sources, parts, gathered.totals, total, ledger)
    report["duplicate_documents"] = duplicates
    report["document_tokens_percentiles"] = percentiles(lengths)
    if cleaned:
        report["cleaning"] = cleaning_report(cleaned, sources)
    (out / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (out / "report.md").write_text(_markdown(report), "utf-8")
    _draw(out / "lengths.png", lengths)
    return duplicates


def _report(
    sources: Sequence[Source], parts: Sequence[str], totals: Sequence[Shard], total: Shard, ledger: dict[str, Any]
) -> dict[str, Any]:
    files, _ = files_of(sources)
    names, tokens = _names(files), sum(total.tokens)
    return {
        "documents": sum(total.documents),
        "empty_documents": total.empty,
        "tokens": tokens,
        "text_bytes": total.text_bytes,
        "bytes_per_token": round(total.text_bytes / tokens, 4),
        "unknown_tokens": total.unknown,
        "byte_fallback_tokens": total.byte_tokens,
        "vocabulary": ledger,
        "sources": [
            {
                "name": source.name,
                "weight": source.weight,
                "documents": dict(zip(parts, one.documents, strict=True)),
                "tokens": dict(zip(parts, one.tokens, strict=True)),
                "unknown_tokens": one.unknown,
                "byte_fallback_tokens": one.byte_tokens,
            }
            for source, one in zip(sources, totals, strict=True)
        ],
        "files": [
            {"name": name, "documents": total.file_documents[n], "tokens": total.file_tokens[n]}
            for n, name in enumerate(names)
        ],
        "drawn_documents": [
            {"file": names[file], "tokens": length, "begins": text} for _, file, length, text in total.shown
        ],
    }


def percentiles(counts: dict[int, int]) -> dict[str, int]:
    """Of documents, by how many there are of each length, in rising order: the lower one where two are as near."""
    documents, found = sum(counts.values()), {}
    for share in PERCENTILES:
        place, passed = (documents - 1) * share // 100, 0
        for length, count in counts.items():
            passed += count
            if passed > place:
                found[str(share)] = length
                break
    return found


def _names(files: Sequence[Path]) -> list[str]:
    """Paths below the folder that all files share: absolute ones would make the artifact depend on its place."""
    root = os.path.commonpath([path.parent.absolute() for path in files])
    return [os.path.relpath(path.absolute(), root) for path in files]


def _markdown(report: dict[str, Any]) -> str:
    ledger = report["vocabulary"]
    largest = sorted(report["files"], key=lambda row: (-row["tokens"], row["name"]))[:LISTED_FILES]
    left = len(report["files"]) - len(largest)
    held = f"{report['documents']:,} documents, {report['tokens']:,} tokens, {report['text_bytes']:,} bytes of text"
    repeated = f"{report['duplicate_documents']:,} ({_share(report['duplicate_documents'], report['documents'])})"
    lines = [
        "# Corpus",
        "",
        f"{held} ({report['bytes_per_token']:.2f} a token); {report['empty_documents']:,} empty documents left out.",
        f"Vocabulary of {ledger['tokenizer_size']:,}; `{ledger['eod']}` ({ledger['eod_id']}) ends each document.",
        f"Documents that repeat an earlier one, letter for letter: {repeated}.",
        f"Tokens that stand for something the vocabulary does not have: {_doubtful(report)}.",
        "",
        *_source_table(report),
        "",
        "| documents up to this share, % | tokens |",
        "|---:|---:|",
        *[f"| {share} | {tokens:,} |" for share, tokens in report["document_tokens_percentiles"].items()],
        "",
        "| file | documents | tokens |",
        "|---|---:|---:|",
        *[f"| {_cell(row['name'])} | {row['documents']:,} | {row['tokens']:,} |" for row in largest],
        *([f"| {left:,} smaller files | in report.json | |"] if left else []),
        "",
        "![Tokens per document](lengths.png)",
        "",
        *(cleaning_markdown(report["cleaning"]) if "cleaning" in report else []),
        "## Documents drawn by lot",
        *[line for row in report["drawn_documents"] for line in _drawn(row)],
    ]
    return "\n".join(lines) + "\n"


def _source_table(report: dict[str, Any]) -> list[str]:
    """One line for each source and part of the split."""
    weights, tokens = sum(row["weight"] for row in report["sources"]), report["tokens"]
    return [
        "| source | part | weight | documents | tokens | of all tokens |",
        "|---|---|---:|---:|---:|---:|",
        *[
            f"| {row['name'] or 'all'} | {part} | {_share(row['weight'], weights)} | {row['documents'][part]:,} "
            f"| {count:,} | {_share(count, tokens)} |"
            for row in report["sources"]
            for part, count in row["tokens"].items()
        ],
    ]


def _doubtful(report: dict[str, Any]) -> str:
    unknown, single = report["unknown_tokens"], report["byte_fallback_tokens"]
    if not unknown and not single:
        return "none"
    tokens = report["tokens"]
    return f"{unknown:,} unknown ({_share(unknown, tokens)}), {single:,} single bytes ({_share(single, tokens)})"


def _drawn(row: dict[str, Any]) -> list[str]:
    """Indented by four: no text of a document can end such a block or be taken for Markdown."""
    return [
        "",
        f"{_cell(row['file'])}, {row['tokens']:,} tokens:",
        "",
        *[f"    {line}" for line in row["begins"].splitlines()],
    ]


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.2%}" if whole else "-"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _draw(path: Path, counts: dict[int, int]) -> None:
    """A histogram of document lengths, both axes logarithmic: lengths of real text spread over decades."""
    import numpy
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lengths = list(counts)
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    edges = numpy.geomspace(lengths[0], lengths[-1] + 1, 50)
    axes.hist(lengths, bins=list(edges), weights=list(counts.values()))
    axes.set(xscale="log", yscale="log", xlabel="tokens per document", ylabel="documents")
    axes.set_title(f"{sum(counts.values()):,} documents, median {percentiles(counts)['50']:,} tokens")
    figure.savefig(path, dpi=120, metadata={"Software": None})
