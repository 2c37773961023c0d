"""What this machine can run, what it cannot, and the fix. Asks files and commands, never torch.

``observe`` asks, ``machine`` reads the answers, ``verdicts`` judges; this file tells it.
"""

from typing import Any

from rich.cells import cell_len, set_cell_size

from easyllm.core.messages import say, term
from easyllm.env import machine, observe
from easyllm.env.verdicts import Report, judge

MARKS = {"good": "✓", "care": "!", "missing": "✗"}


def examine() -> Report:
    return judge(machine.read(observe.observe()))


def document(report: Report) -> dict[str, Any]:
    """{"findings": [...], "abilities": {name: bool}, "blocked_by": {name: [finding, ...]}} for ``--json``."""
    return {
        "findings": [vars(entry) for entry in report.findings],
        "abilities": {name: not blockers for name, blockers in report.abilities.items()},
        "blocked_by": {name: list(blockers) for name, blockers in report.abilities.items() if blockers},
    }


def text(report: Report) -> str:
    """One line a finding, fixes below their finding, then what can run and what stands in the way of the rest."""
    width = max(cell_len(term(entry.name)) for entry in report.findings)
    lines = []
    for entry in report.findings:
        lines.append(f"{MARKS[entry.verdict]} {set_cell_size(term(entry.name), width)}  {entry.value}")
        lines += [f"  {'':<{width}}  → {entry.fix}"] if entry.fix else []
    lines.append("")
    for name, blockers in report.abilities.items():
        line = f"{MARKS['missing' if blockers else 'good']} {say('ability_' + name)}"
        lines.append(line + (say("doctor_because", names=", ".join(map(term, blockers))) if blockers else ""))
    return "\n".join(lines) + "\n"
