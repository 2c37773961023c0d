"""What a run and a plan look like to a person and to a program."""

from typing import Any

from easyllm.core.freshness import State
from easyllm.core.messages import say
from easyllm.core.stage import Plan
from easyllm.core.workplace import human_bytes


def run_document(rows: list[Any]) -> dict[str, Any]:
    """{"stages": [{"stage", "status", "seconds", "path", "digest", "metrics"}]}."""
    return {
        "stages": [
            {
                "stage": row.stage,
                "status": row.status,
                "seconds": row.seconds,
                "path": str(row.path),
                "digest": row.manifest.digest,
                "metrics": row.manifest.metrics,
            }
            for row in rows
        ]
    }


def run_text(rows: list[Any]) -> str:
    """The stages with their time and what they left, one line each."""
    width = max(len(row.stage) for row in rows) if rows else 0
    lines = [
        f"{row.stage:<{width}}  {say('status_' + row.status):<6}  {row.manifest.seconds:>7.1f} s  {row.path}"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def plan_document(rows: list[tuple[str, State, Plan]]) -> dict[str, Any]:
    """{"stages": [{"stage", "fresh", "why", "figures", "commands", "decisions", "disk_bytes", "memory_bytes"}]}."""
    return {
        "stages": [
            {
                "stage": name,
                "fresh": state.fresh,
                "why": say(state.reason, **({"stage": name} | state.params)),
                "figures": plan.figures,
                "commands": plan.commands,
                "decisions": [vars(entry) for entry in plan.decisions],
                "disk_bytes": plan.disk_bytes,
                "memory_bytes": plan.memory_bytes,
            }
            for name, state, plan in rows
        ]
    }


def plan_text(rows: list[tuple[str, State, Plan]]) -> str:
    """For each stage: whether it would run and why, figures, decisions with reasons, exact commands."""
    lines: list[str] = []
    for name, state, plan in rows:
        lines.append(
            f"{name}: {say('would_skip') if state.fresh else say('would_run', reason=say(state.reason, **state.params))}"
        )
        lines += [f"  {figure}: {_figure(value)}" for figure, value in plan.figures.items()]
        if plan.disk_bytes:
            lines.append(f"  {say('disk')}: {human_bytes(plan.disk_bytes)}")
        if plan.memory_bytes:
            lines.append(f"  {say('memory')}: {human_bytes(plan.memory_bytes)}")
        lines += [f"  {d.what} = {d.value}: {d.why}" for d in plan.decisions]
        lines += [f"  $ {command}" for command in plan.commands]
    return "\n".join(lines) + "\n"


def _figure(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
