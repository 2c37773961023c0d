"""What was made and what was dropped, for people: report.md in the language of the run, report.json, rows.png."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from easyllm.core.artifact import write_whole
from easyllm.core.messages import say, term
from easyllm.instruct.clean.picture import draw
from easyllm.instruct.clean.tokens import units_of
from easyllm.instruct.row import Finding, Row

PICTURE = "rows.png"
FILES = ("report.md", "report.json", PICTURE)

EXAMPLES = 2
"""Shown of what each reason dropped."""
EXCERPT_CHARACTERS = 240
PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


def write(folder: Path, rows: Sequence[Row], dropped: Sequence[Row], ledger: dict[str, Any]) -> dict[str, Any]:
    """Write the three files into ``folder``; what report.json holds. ``ledger``: the teacher's totals."""
    report = report_of(rows, dropped, ledger)
    write_whole(folder / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_whole(folder / "report.md", markdown(report))
    draw(folder / PICTURE, rows, dropped)
    return report


def report_of(rows: Sequence[Row], dropped: Sequence[Row], ledger: dict[str, Any]) -> dict[str, Any]:
    """The numbers, with names in English."""
    return {
        "rows": len(rows),
        "dropped": len(dropped),
        "requests": _requests(ledger),
        "reasons": _reasons(dropped),
        "flags": _counted(found.reason for row in rows for found in row.findings),
        "languages": _counted(row.language or "-" for row in rows),
        "origins": _counted(row.origin for row in rows),
        "classification": _counted(_kind(row) for row in rows),
        "instruction_units": _percentiles([units_of(row.instruction) for row in rows]),
        "output_units": _percentiles([units_of(row.output) for row in rows]),
        "scores": {str(score): sum(row.score == score for row in rows) for score in range(5, 0, -1)}
        if any(row.score for row in rows)
        else {},
    }


def _requests(ledger: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry for each purpose that was asked for."""
    names = ("requests", "answered", "replayed", "prompt_tokens", "completion_tokens", "money")
    entries = ledger.get("by_purpose", {}).items()
    return [{"purpose": purpose, **{name: count[name] for name in names}} for purpose, count in entries]


def _reasons(dropped: Sequence[Row]) -> list[dict[str, Any]]:
    """The most frequent first; a row with two reasons counts for both."""
    counts = Counter(found.reason for row in dropped for found in row.findings if found.drops)
    return [
        {"reason": reason, "rows": count, "examples": [_example(row, reason) for row in _with(dropped, reason)]}
        for reason, count in counts.most_common()
    ]


def _with(dropped: Sequence[Row], reason: str) -> list[Row]:
    found = (row for row in dropped if any(f.reason == reason and f.drops for f in row.findings))
    return [row for row, _ in zip(found, range(EXAMPLES), strict=False)]


def _example(row: Row, reason: str) -> dict[str, Any]:
    found: Finding = next(f for f in row.findings if f.reason == reason and f.drops)
    texts = {name: _short(getattr(row, name)) for name in ("instruction", "input", "output")}
    return {name: text for name, text in texts.items() if text} | {"found": found.detail}


def _kind(row: Row) -> str:
    return {True: "classification", False: "no classification", None: "not asked"}[row.is_classification]


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _percentiles(lengths: Sequence[int]) -> dict[str, int]:
    """The lower one where two are as near."""
    ranked = sorted(lengths)
    return {str(share): ranked[(len(ranked) - 1) * share // 100] for share in PERCENTILES} if ranked else {}


def _short(text: str) -> str:
    return text if len(text) <= EXCERPT_CHARACTERS else text[:EXCERPT_CHARACTERS] + "…"


def markdown(report: dict[str, Any]) -> str:
    """report.md, in the language of the run."""
    lines = [
        say("rows_title"),
        "",
        say("rows_made", rows=report["rows"], dropped=report["dropped"]),
        "",
        *_table(("requests for", "requests", "answered", "replayed", "prompt tokens", "answer tokens", "money"),
                [[term(entry["purpose"]), *list(entry.values())[1:]] for entry in report["requests"]]),
        *_table(("dropped because of", "rows"), _named({e["reason"]: e["rows"] for e in report["reasons"]})),
        *_table(("shown to the reviewer", "rows"), _named(report["flags"])),
        *_table(("language", "rows"), _named(report["languages"])),
        *_table(("kind", "rows"), _named(report["origins"] | report["classification"])),
        *_table(("score", "rows"), _named(report["scores"])),
        *_lengths(report),
        f"![{say('rows_picture')}]({PICTURE})",
        "",
        *_examples(report["reasons"]),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _named(counts: dict[str, int]) -> list[list[Any]]:
    return [[term(name), count] for name, count in counts.items()]


def _lengths(report: dict[str, Any]) -> list[str]:
    instructions, outputs = report["instruction_units"], report["output_units"]
    heads = ("rows up to this share, %", "instruction", "output")
    return _table(heads, [[share, instructions[share], outputs[share]] for share in instructions])


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """The first column is words, the others are numbers; nothing where there are no rows."""
    if not rows:
        return []
    return [
        "| " + " | ".join(map(term, heads)) + " |",
        "|---" + "|---:" * (len(heads) - 1) + "|",
        *["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows],
        "",
    ]


def _cell(value: Any) -> str:
    text = f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    return text.replace("|", "\\|").replace("_", " ")


def _examples(reasons: Sequence[dict[str, Any]]) -> list[str]:
    """Indented by four: no text of a row can end such a block or be taken for Markdown."""
    lines = []
    for entry in reasons:
        lines += [say("rows_examples", reason=term(entry["reason"]).replace("_", " "), rows=entry["rows"])]
        for example in entry["examples"]:
            texts = [(term(name), text) for name, text in example.items() if name != "found"]
            found = [(term(name), value) for name, value in example["found"].items()]
            lines += ["", *[f"    {line}" for name, value in texts + found for line in _said(name, value)], ""]
            lines += ["<!-- -->"]  # without it two blocks in a row would be one
        lines += [""]
    return lines


def _said(name: str, value: Any) -> list[str]:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return say("named", name=name, value=text).splitlines()
