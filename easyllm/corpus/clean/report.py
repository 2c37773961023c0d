"""What the cleaning dropped, for people: a part of report.json and of report.md."""

from collections.abc import Sequence
from typing import Any

from easyllm.corpus.clean.dropped import Cleaned
from easyllm.corpus.sources import Source


def cleaning_report(cleaned: Cleaned, sources: Sequence[Source]) -> dict[str, Any]:
    """Blocks in the order they worked, each with what it dropped, why, of which sources, and a few examples."""
    left, blocks = sum(cleaned.read), []
    for block in cleaned.blocks:
        blocks.append(
            {
                "block": block.block,
                "documents": left,
                "dropped": block.documents,
                "reasons": {reason: count for reason, count in sorted(block.reasons.items()) if reason},
                "examples": [{"reason": reason, "begins": text} for _, _, reason, text in block.examples],
            }
        )
        left -= block.documents
    return {
        "read": sum(cleaned.read),
        "kept": left,
        "blocks": blocks,
        "sources": [
            {
                "name": source.name,
                "read": cleaned.read[number],
                "dropped": {block.block: block.sources[number] for block in cleaned.blocks},
                "kept": cleaned.kept(number),
            }
            for number, source in enumerate(sources)
        ],
    }


def cleaning_markdown(report: dict[str, Any]) -> list[str]:
    """The lines of report.md."""
    blocks = report["blocks"]
    names = [block["block"] for block in blocks]
    return [
        "## Cleaning",
        "",
        f"{report['read']:,} documents came in, {report['kept']:,} stayed.",
        "",
        "| block, in this order | came to it | dropped | why |",
        "|---|---:|---:|---|",
        *[
            f"| {block['block']} | {block['documents']:,} | {block['dropped']:,} | {_reasons(block['reasons'])} |"
            for block in blocks
        ],
        "",
        f"| source | read |{''.join(f' {name} |' for name in names)} kept |",
        f"|---|---:|{'---:|' * len(names)}---:|",
        *[
            f"| {row['name'] or 'all'} | {row['read']:,} |"
            f"{''.join(f' {row_dropped:,} |' for row_dropped in row['dropped'].values())} {row['kept']:,} |"
            for row in report["sources"]
        ],
        *[line for block in blocks for line in _examples(block)],
        "",
    ]


def _reasons(reasons: dict[str, int]) -> str:
    most = sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in most)


def _examples(block: dict[str, Any]) -> list[str]:
    """Indented by four, as the documents that are drawn by lot."""
    if not block["examples"]:
        return []
    lines = ["", f"### Dropped by {block['block']}, {len(block['examples'])} of {block['dropped']:,}"]
    for example in block["examples"]:
        head = [f"{example['reason']}:", ""] if example["reason"] else []
        lines += ["", *head, *[f"    {line}" for line in example["begins"].splitlines()]]
        if not example["reason"]:
            lines += ["", "<!-- -->"]  # without it two blocks in a row would be one
    return lines
