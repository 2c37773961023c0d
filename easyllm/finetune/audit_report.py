"""The label audit for people: a few lines in the terminal, and label_audit.md with rows shown as they are trained."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from easyllm.core.artifact import write_whole
from easyllm.core.examples import IGNORED, Example
from easyllm.core.messages import say
from easyllm.core.progress import note
from easyllm.finetune.audit import Audit

BAR = 40
"""Characters of the longest bar."""
SHOWN_ROWS = 3
COLUMNS = ("audit_source", "audit_weight", "audit_rows", "audit_tokens", "audit_labels")


def show(counted: Audit) -> None:
    """On stderr: the counts, and how long the rows are."""
    figures = {
        "rows": counted.rows,
        "tokens": counted.tokens,
        "labels": counted.label_tokens,
        "share": counted.share,
        "longest": counted.longest_tokens,
    }
    note(say("label_audit", **figures, over=len(counted.dropped), cut=counted.rows_cut))
    for line in [*_warnings(counted), *_bars(counted)]:
        note(f"  {line}")


def write(out: Path, counted: Audit, tokenizer: Any, examples: list[Example]) -> None:
    """label_audit.md in ``out``."""
    lines = [
        f"# {say('audit_title')}",
        "",
        say("audit_counts", rows=counted.rows, tokens=counted.tokens, labels=counted.label_tokens, share=counted.share),
        "",
        *[f"- {line}" for line in _warnings(counted)],
        "",
        f"| {' | '.join(say(name) for name in COLUMNS)} |",
        "|---|---|---|---|---|",
        *[f"| {s.source} | {s.weight:g} | {s.rows:,} | {s.tokens:,} | {s.label_tokens:,} |" for s in counted.sources],
        "",
        f"## {say('audit_lengths')}",
        "",
        *[f"    {line}" for line in _bars(counted)],
        "",
        f"## {say('audit_shown')}",
    ]
    for example in examples[:SHOWN_ROWS]:
        source = example.source
        # A fence longer than any in the row, so that the row cannot close it.
        text = "".join(_marked_text(tokenizer, example))
        fence = "`" * (max(map(len, re.findall("`{3,}", text)), default=2) + 1)
        lines += ["", f"{source.file.name}:{source.line}", "", fence, text, fence]
    write_whole(out / "label_audit.md", "\n".join(lines) + "\n")


def _warnings(counted: Audit) -> list[str]:
    found = {
        "audit_same": counted.rows_same,
        "audit_cut": counted.rows_cut,
        "audit_dropped": len(counted.dropped),
        "audit_without_end": counted.rows_without_end,
        "audit_parted": counted.rows_parted,
        "audit_held_out_dropped": len(counted.held_out.get("dropped", [])),
    }
    return [say(name, count=count) for name, count in found.items() if count]


def _bars(counted: Audit) -> list[str]:
    most = max(entry["rows"] for entry in counted.lengths)
    wide = len(str(counted.lengths[-1]["to"]))
    return [
        f"{e['from']:>{wide}}-{e['to']:<{wide}} {'█' * round(BAR * e['rows'] / most):<{BAR}} {e['rows']:,}"
        for e in counted.lengths
    ]


def _marked_text(tokenizer: Any, example: Example) -> Iterator[str]:
    """The row's text, what is learnt between ⟦ and ⟧."""
    start = 0
    while start < len(example.ids):
        learnt = example.labels[start] != IGNORED
        stop = next(
            (at for at in range(start, len(example.ids)) if (example.labels[at] != IGNORED) != learnt), len(example.ids)
        )
        text = tokenizer.decode(example.ids[start:stop], skip_special_tokens=False)
        yield f"⟦{text}⟧" if learnt else text
        start = stop
