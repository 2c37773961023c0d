"""What the teacher is asked, in English or Chinese: the prompt sets stand in prompts.en.toml and prompts.zh.toml.

The steps are those of Self-Instruct (Wang et al. 2022, arXiv:2212.10560): instructions, their kind, then instances,
of a classification the label first, so that labels balance. The words, the forms and the one-call variant are ours.
"""

import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from easyllm.instruct.ask import Ask
from easyllm.instruct.config import Teacher
from easyllm.instruct.row import Row
from easyllm.instruct.seeds import Seed

LABELS_AT_MOST = 4
"""Examples of a classification task are asked for at most this many labels."""

TEXT = {"type": "string"}


@cache
def prompt_set(language: str) -> dict[str, Any]:
    """The prompts of ``en`` or ``zh``."""
    return tomllib.loads(Path(__file__).with_name(f"prompts.{language}.toml").read_text("utf-8"))


class Prompts:
    """Builds every Ask of one language, with the teacher's own settings."""

    def __init__(self, language: str, teacher: Teacher) -> None:
        self.language = language
        self._set, self._teacher = prompt_set(language), teacher

    def instructions(self, shown: Sequence[str], count: int, draw: int) -> Ask:
        """``count`` new instructions like those shown. Answer: {"instructions": [text]}."""
        schema = _listed("Instructions", "instructions", TEXT)
        return self._ask("instructions", schema, draw, tasks=_numbered(shown), count=count)

    def kind(self, instruction: str, shown: Sequence[Seed]) -> Ask:
        """Whether it is a classification. Answer: {"classification": true or false}; always asked at temperature 0."""
        words = self._set["kind"]
        tasks = "\n\n".join(
            words["task"].format(instruction=s.instruction, answer=words["yes" if s.is_classification else "no"])
            for s in shown
        )
        schema = _closed("Kind", {"classification": {"type": "boolean"}})
        return self._ask("kind", schema, 0, temperature=0.0, tasks=tasks, instruction=instruction)

    def instances(self, instruction: str, classification: bool, shown: Sequence[Seed], count: int, draw: int) -> Ask:
        """Inputs with their answers; of a classification the label first. Answer: {"instances": [...]}."""
        names = ("output", "input") if classification else ("input", "output")
        tasks = "\n\n".join(self._example(seed.instruction, seed.instances, names) for seed in shown)
        schema = _listed("Instances", "instances", _closed(None, dict.fromkeys(names, TEXT)))
        form = "output-first" if classification else "input-first"
        numbers = {"count": count, "most": count * LABELS_AT_MOST}
        return self._ask(form, schema, draw, purpose="instances", tasks=tasks, instruction=instruction, **numbers)

    def rows(self, shown: Sequence[Row], count: int, draw: int) -> Ask:
        """Whole rows in one answer: {"rows": [{"instruction", "input", "output"}]}."""
        names = ("instruction", "input", "output")
        schema = _listed("Rows", "rows", _closed(None, dict.fromkeys(names, TEXT)))
        tasks = "\n\n".join(self._labelled(vars(row), names) for row in shown)
        return self._ask("rows", schema, draw, tasks=tasks, count=count)

    def evolve(self, instruction: str, way: int, draw: int) -> Ask:
        """A harder instruction, in one of five ways (Xu et al. 2023). Answer: {"instruction": text}."""
        ways = self._set["evolve"]["how"]
        schema = _closed("Evolved", {"instruction": TEXT})
        return self._ask("evolve", schema, draw, instruction=instruction, how=ways[way % len(ways)])

    def reply(self, instruction: str, given: str, draw: int = 0) -> Ask:
        """The answer to one instruction with its input, in plain text."""
        asked = f"{instruction}\n\n{given}" if given else instruction
        return self._ask("reply", None, draw, purpose="answer", instruction=asked)

    def _ask(
        self, entry: str, schema: dict[str, Any] | None, draw: int, *, purpose: str = "",
        temperature: float | None = None, **words: Any,
    ) -> Ask:  # fmt: skip
        told = self._set[entry]
        return Ask(
            purpose=purpose or entry,
            messages=(
                {"role": "system", "content": told["system"]},
                {"role": "user", "content": told["message"].strip().format(**words)},
            ),
            schema=schema,
            form=told["form"].strip(),
            temperature=self._teacher.temperature if temperature is None else temperature,
            top_p=self._teacher.top_p,
            max_tokens=self._teacher.max_tokens,
            draw=draw,
        )

    def _example(self, instruction: str, instances: Sequence[dict[str, str]], names: Sequence[str]) -> str:
        shown = [self._labelled(instance, names) for instance in instances[:2]]
        return "\n".join([self._line("instruction", instruction), *shown])

    def _labelled(self, texts: dict[str, Any], names: Sequence[str]) -> str:
        return "\n".join(self._line(name, texts[name] or self._set["noinput"]) for name in names)

    def _line(self, name: str, text: str) -> str:
        colon = "：" if self.language == "zh" else ": "
        return f"{self._set['labels'][name]}{colon}{text}"


def _numbered(texts: Sequence[str]) -> str:
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, start=1))


def _closed(title: str | None, properties: dict[str, Any]) -> dict[str, Any]:
    """An object with exactly these properties, as strict schemas must say it."""
    named = {"title": title} if title else {}
    required = list(properties)
    return named | {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _listed(title: str, name: str, items: dict[str, Any]) -> dict[str, Any]:
    return _closed(title, {name: {"type": "array", "items": items}})
