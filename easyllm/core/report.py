"""What a run and a plan look like to a person and to a program."""

from typing import Any

from rich.cells import set_cell_size

from easyllm.core.freshness import State
from easyllm.core.messages import say, term
from easyllm.core.printable import printable
from easyllm.core.sizes import human_bytes
from easyllm.core.stage import Plan


def run_document(rows: list[Any]) -> dict[str, Any]:
    """{"stages": [{"stage", "status", "seconds", "path", "digest", "metrics"}]}; a corpus may have "pretraining"."""
    return {
        "stages": [
            {
                "stage": row.stage,
                "status": row.status,
                "seconds": row.seconds,
                "path": str(row.path),
                "digest": row.manifest.digest,
                "metrics": row.manifest.metrics,
                **({"pretraining": row.pretraining} if row.pretraining else {}),
            }
            for row in rows
        ]
    }


def run_text(rows: list[Any]) -> str:
    """The stages with their time and peak memory, one line each, and what a person wants to see after them."""
    return "\n".join([*_stage_lines(rows), *_headlines(rows), *_next_steps(rows), *_served_lines(rows)]) + "\n"


def _stage_lines(rows: list[Any]) -> list[str]:
    width = max(len(row.stage) for row in rows) if rows else 0
    lines = [
        f"{row.stage:<{width}}  {set_cell_size(say('status_' + row.status), 6)} {row.manifest.seconds:>7.1f} s"
        f"  {human_bytes(row.manifest.peak_memory_bytes):>8}  {row.path}"
        for row in rows
    ]
    total = sum(row.manifest.seconds for row in rows)
    most = max((row.manifest.peak_memory_bytes for row in rows), default=0)
    return [*lines, f"{'':<{width}}  {'':<6} {total:>7.1f} s  {human_bytes(most):>8}"]


def _headlines(rows: list[Any]) -> list[str]:
    """One line for each kind of artifact that has a figure worth a sentence."""
    lines = []
    for row in rows:
        metrics = row.manifest.metrics
        if row.manifest.kind == "corpus":
            lines.append(say("headline_corpus", documents=metrics["documents"], tokens=metrics["tokens"],
                             duplicates=metrics["duplicate_documents"], path=row.path))  # fmt: skip
        if row.pretraining:
            lines.append(say("headline_epochs", **row.pretraining))
        if row.manifest.kind == "checkpoint" and "first_loss" in metrics:  # one that was trained, not converted
            lines.append(say("headline_checkpoint", first=metrics["first_loss"], last=metrics["last_loss"]))
        if row.manifest.kind == "rows":
            lines.append(_rows_headline(metrics, row.manifest.records))
        if row.manifest.kind == "scores" and "base_loss" in metrics:
            lines.append(say("headline_loss", before=metrics["base_loss"], after=metrics["tuned_loss"]))
        if row.manifest.kind == "scores" and metrics.get("expected"):
            hits = {"before": metrics.get("base_hits", 0), "after": metrics["tuned_hits"], "of": metrics["expected"]}
            lines.append(say("headline_hits", **hits))
    return ["", *lines] if lines else []


def _rows_headline(metrics: dict[str, Any], records: dict[str, Any]) -> str:
    """How many instruction rows there are, who let them through, and what they cost."""
    ledger, review = records["ledger"], records["review"]
    spent = {"requests": ledger["requests"], "money": f"{ledger['money']:g}"}
    spent["tokens"] = ledger["prompt_tokens"] + ledger["completion_tokens"]
    counts = {name: metrics[name] for name in ("made", "dropped", "accepted", "rejected")}
    authors = ", ".join(review["authors"]) or "-"
    return say("headline_rows", authors=authors, how=term(review["how"]), **counts, **spent)


def _next_steps(rows: list[Any]) -> list[str]:
    """How to go on from a run that ends in a served model."""
    served = next((row for row in rows if row.manifest.kind == "served"), None)
    if served is None:
        return []
    recipe, port = served.manifest.recipe, served.manifest.config["port"]
    return ["", *say("next_steps", recipe=recipe, port=port, path=served.path.parent).splitlines()]


def _served_lines(rows: list[Any]) -> list[str]:
    """What the served model answered, beside what the base said to the same prompt."""
    before = {
        entry["prompt"]: entry.get("base")
        for row in rows
        if row.manifest.kind == "scores"
        for entry in row.manifest.records.get("answers", [])
    }
    lines = []
    for row in rows:
        if row.manifest.kind == "served" and row.manifest.records["answers"]:
            lines += ["", say("served_title")]
            for entry in row.manifest.records["answers"]:
                lines.append(f"  {say('asked')}  {entry['prompt']}")
                if before.get(entry["prompt"]):
                    lines.append(f"  {say('base_said')}  {_one_line(before[entry['prompt']])}")
                lines.append(f"  {say('served_said')}  {_one_line(entry['answer'])}")
    return lines


def _one_line(text: str, longest: int = 160) -> str:
    """``text`` on one line, with what a terminal would obey taken out: a model may say anything."""
    flat = printable(" ".join(text.split()))
    return flat if len(flat) <= longest else flat[:longest] + "…"


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
        reason = say(state.reason, **({"stage": name} | state.params))
        verdict = say("would_skip") if state.fresh else say("would_run", reason=reason)
        lines.append(say("named", name=name, value=verdict))
        lines += ["  " + say("named", name=term(figure), value=_shown(value)) for figure, value in plan.figures.items()]
        if plan.disk_bytes:
            lines.append("  " + say("named", name=say("disk"), value=human_bytes(plan.disk_bytes)))
        if plan.memory_bytes:
            lines.append("  " + say("named", name=say("memory"), value=human_bytes(plan.memory_bytes)))
        lines += ["  " + say("decided", what=term(d.what), value=_shown(d.value), why=d.why) for d in plan.decisions]
        lines += [f"  $ {command}" for command in plan.commands]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
