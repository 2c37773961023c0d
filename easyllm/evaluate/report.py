"""The scores as a document, as Markdown and as a table on the terminal."""

import html
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easyllm.core.artifact import write_whole
from easyllm.core.messages import term
from easyllm.evaluate.measure import Loss
from easyllm.evaluate.page import Answer, page
from easyllm.evaluate.questions import Question

SIDES = ("base", "adapter", "tuned", "served")
SAME = (("adapter", "merged", "tuned"), ("tuned", "served", "served"))
"""(one side, how the metric calls the other, the other side): pairs that should give the same tokens."""


@dataclass(frozen=True)
class Scores:
    """By side (base, adapter, tuned, served; those there are), filled as they are measured."""

    names: Mapping[str, str]
    """How the recipe calls each side."""
    questions: Sequence[Question]
    losses: dict[str, Loss] = field(default_factory=dict)
    answers: dict[str, Sequence[str]] = field(default_factory=dict)
    tokens: dict[str, Sequence[list[int]]] = field(default_factory=dict)
    """Of the answers, in the order asked."""
    tasks: dict[str, dict[str, dict[str, tuple[float, float | None]]]] = field(default_factory=dict)
    """By side, task and metric: (value, standard error)."""

    @property
    def sides(self) -> list[str]:
        return [side for side in SIDES if side in self.names]

    @property
    def expected(self) -> int:
        """Questions with an expected text."""
        return sum(bool(question.expect) for question in self.questions)

    def hits(self, side: str) -> int:
        """Answers of ``side`` that hold what was expected."""
        pairs = zip(self.questions, self.answers[side], strict=True)
        return sum(question.hit(answer) is True for question, answer in pairs)

    def same_tokens(self) -> dict[str, int]:
        """By pair of sides (adapter_merged, tuned_served): how many prompts both answered with the same tokens."""
        found = {}
        for one, called, other in SAME:
            if self.questions and one in self.tokens and other in self.tokens:
                pairs = zip(self.tokens[one], self.tokens[other], strict=True)
                found[f"{one}_{called}"] = sum(mine == theirs for mine, theirs in pairs)
        return found

    def metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = {"prompts": len(self.questions), "expected": self.expected}
        for side in self.sides:
            if side in self.losses:
                loss = self.losses[side]
                found |= {f"{side}_loss": loss.loss, f"{side}_perplexity": loss.perplexity}
                found |= {"held_out_rows": loss.rows, "held_out_label_tokens": loss.label_tokens}
            if self.expected:
                found[f"{side}_hits"] = self.hits(side)
            for task, values in self.tasks.get(side, {}).items():
                found |= {f"{side}_{task}_{metric}": value for metric, (value, _) in values.items()}
        return found | {f"same_tokens_{pair}": count for pair, count in self.same_tokens().items()}

    def rows(self) -> list[dict[str, Any]]:
        """One record a question: prompt, expect, and for each side its answer and whether it hit."""
        rows = []
        for number, question in enumerate(self.questions):
            row: dict[str, Any] = {"prompt": question.prompt, "expect": list(question.expect)}
            for side in self.sides:
                answer = self.answers[side][number]
                row |= {side: answer, f"{side}_hit": question.hit(answer)}
            rows.append(row)
        return rows


def write(scores: Scores, out: Path) -> None:
    """scores.json, answers.jsonl, report.md and report.html in ``out``."""
    document = {
        "models": dict(scores.names),
        "held_out": {side: loss.as_record() for side, loss in scores.losses.items()},
        "tasks": scores.tasks,
        "metrics": scores.metrics(),
    }
    write_whole(out / "scores.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in scores.rows()]
    write_whole(out / "answers.jsonl", "".join(lines))
    write_whole(out / "report.md", markdown(scores))
    titles, figures = _tables(scores, term)[0]
    answered = [(row["prompt"], row["expect"], _columns(scores, row)) for row in scores.rows()]
    write_whole(out / "report.html", page(titles, figures, answered))


def _columns(scores: Scores, row: Mapping[str, Any]) -> list[Answer]:
    return [
        Answer(f"{term(side)} ({scores.names[side]})", row[side], row[f"{side}_hit"]) for side in scores.sides
    ]  # fmt: skip


def markdown(scores: Scores) -> str:
    """The report as a page: a table of figures, a table of answers."""
    figures, *answers = _tables(scores, str)
    parts = ["# Evaluation", "", *_lines(*figures)]
    for table in answers:
        parts += ["", "## Answers", "", *_lines(*table)]
    return "\n".join(parts) + "\n"


def show(scores: Scores) -> None:
    """The same two tables on stderr, in the chosen language."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)
    for titles, rows in _tables(scores, term):
        table = Table(*titles, show_lines=len(titles) > 3)
        for row in rows:
            table.add_row(*[Text(_printable(cell)) for cell in row])  # as text: an answer may hold rich's brackets
        console.print(table)


def _printable(text: str) -> str:
    """A model may say anything, escape sequences for a terminal too."""
    return "".join(c if c.isprintable() or c == "\n" else "·" for c in text)


def _tables(scores: Scores, word: Callable[[str], str]) -> list[tuple[list[str], list[list[str]]]]:
    """(titles, rows) of the figures, then of the answers if something was asked; ``word`` gives a name its language."""
    sides = [f"{word(side)} ({scores.names[side]})" for side in scores.sides]
    tables = [(["", *sides], [[word(name), *cells] for name, *cells in _figures(scores)])]
    if scores.questions:
        tables.append(([word("prompt"), word("expected"), *sides], _answers(scores)))
    return tables


def _figures(scores: Scores) -> list[list[str]]:
    rows = []
    if scores.losses:
        rows.append(["loss, nats per answer token", *[f"{scores.losses[s].loss:.4f}" for s in scores.sides]])
        rows.append(["perplexity", *[f"{scores.losses[s].perplexity:.4g}" for s in scores.sides]])
        rows.append(["held-out rows", *[f"{scores.losses[s].rows:,}" for s in scores.sides]])
    if scores.expected:
        rows.append(["expected answers", *[f"{scores.hits(s)}/{scores.expected}" for s in scores.sides]])
    for pair, count in scores.same_tokens().items():
        one, other = next((one, other) for one, called, other in SAME if pair == f"{one}_{called}")
        told = f"{count}/{len(scores.questions)}"
        rows.append(["same tokens", *[told if side in (one, other) else "" for side in scores.sides]])
    return rows + _task_rows(scores)


def _task_rows(scores: Scores) -> list[list[str]]:
    first = next(iter(scores.tasks.values()), {})
    named = [(task, metric) for task, values in first.items() for metric in values]
    return [
        [f"{task} {metric}", *[_value(*scores.tasks[side][task][metric]) for side in scores.sides]]
        for task, metric in named
    ]


def _value(value: float, error: float | None) -> str:
    return f"{value:.4f}" + (f" ± {error:.4f}" if error is not None else "")


def _answers(scores: Scores) -> list[list[str]]:
    rows = []
    for row in scores.rows():
        cells = [row["prompt"], " / ".join(row["expect"])]
        rows.append(cells + [_marked(row[side], row[f"{side}_hit"]) for side in scores.sides])
    return rows


def _marked(answer: str, hit: bool | None) -> str:
    return answer if hit is None else f"{'✓' if hit else '✗'} {answer}"


def _literally(text: str) -> str:
    """Whatever a model has said, as a cell that shows these very characters and runs none of them."""
    shown = re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(text, quote=False))
    return "<br>".join(" ".join(line.split()) for line in shown.splitlines() if line.strip())


def _lines(titles: list[str], rows: list[list[str]]) -> list[str]:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(map(_literally, cells)) + " |"

    return [line(titles), "|" + " --- |" * len(titles), *[line(row) for row in rows]]
