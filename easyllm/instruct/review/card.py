"""What a reviewer sees of one row in the terminal: its words, what the filters found, who decided what."""

import re
from difflib import SequenceMatcher

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from easyllm.core.messages import say, term
from easyllm.core.printable import printable
from easyllm.instruct.review.decisions import REJECTED, UNDECIDED, Standing
from easyllm.instruct.review.log import TEXTS, Decision

HIDDEN = "\N{REPLACEMENT CHARACTER}"
COLOURS = {"undecided": "bold", "accepted": "green", "rejected": "red", "conflict": "yellow"}


def card(one: Standing, number: int, total: int) -> RenderableType:
    """Everything that a decision on the row needs. Model text is text: neither markup nor terminal codes."""
    parts: list[RenderableType] = [_head(one, number, total)]
    if one.source.nearest:
        parts += [Text(), _side_by_side(one)]
    shown = one.source if one.state == REJECTED else one.row
    for name in TEXTS:
        if text := getattr(shown, name):
            parts += [Text(), Text(say(f"tui_{name}"), "bold cyan"), seen(text)]
    parts += [Text(), *_findings(one), *(_decided(decision) for decision in one.by.values())]
    return Group(*parts)


def seen(text: str) -> Text:
    """The words as they are, with a mark for each character that would not be seen."""
    return Text(printable(text.expandtabs(4), HIDDEN, keep="\n"))


def _head(one: Standing, number: int, total: int) -> Text:
    row, head = one.source, Text(say("tui_row", number=number + 1, rows=total), "bold")
    length = sum(len(getattr(row, name)) for name in TEXTS)
    facts = [row.language, term(row.origin), say("tui_characters", count=length)]
    facts += [say("tui_score", score=row.score)] if row.score is not None else []
    facts += [say("tui_classification")] if row.is_classification else []
    head.append(" · " + printable(" · ".join(fact for fact in facts if fact)), "dim")
    if one.state != UNDECIDED:
        head.append(" · " + say(f"tui_state_{one.state}"), COLOURS[one.state])
    return head


def _side_by_side(one: Standing) -> Table:
    """The instruction beside the most similar one before it; what only one of them says is marked."""
    nearest = one.source.nearest or {}
    other = str(nearest.get("instruction", ""))
    mine, theirs = _differences(one.source.instruction, other)
    table = Table(expand=True, show_lines=False, title_justify="left")
    table.add_column(say("tui_this"), ratio=1)
    table.add_column(say("tui_nearest", value=float(nearest.get("rouge_l", 0))), ratio=1)
    table.add_row(mine, theirs)
    return table


def _differences(one: str, other: str) -> tuple[Text, Text]:
    left, right = _pieces(one), _pieces(other)
    texts = Text(), Text()
    for kind, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        style = "" if kind == "equal" else "bold reverse"
        texts[0].append_text(Text(seen("".join(left[a:b])).plain, style))
        texts[1].append_text(Text(seen("".join(right[c:d])).plain, style))
    return texts


def _pieces(text: str) -> list[str]:
    """Words where a script has spaces, characters where it has none."""
    return re.findall(r"[^\W\u2e80-\u9fff\uac00-\ud7af]+|.", text, re.DOTALL)


def _findings(one: Standing) -> list[Text]:
    lines = []
    for finding in one.source.findings:
        detail = " · ".join(f"{term(name)}: {value}" for name, value in finding.detail.items())
        lines.append(Text(printable(f"! {term(finding.reason)}  {detail}"), "yellow"))
    return lines


def _decided(decision: Decision) -> Text:
    line = Text("> " + printable(say(f"tui_by_{decision.verdict}", author=decision.author)), "magenta")
    if decision.note:
        line.append("  " + printable(term(decision.note)))
    for name, text in (decision.edited or {}).items():
        line.append(f"\n    {say(f'tui_{name}')}: ").append_text(seen(text))
    return line
