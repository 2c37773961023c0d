"""The teacher's own opinion of a row, 1 to 5: what it is asked, and what it said."""

import json
from typing import Any

import regex

from easyllm.instruct.ask import Answer, Ask
from easyllm.instruct.prompts import prompt_set
from easyllm.instruct.row import Row

LEAST, MOST = 1, 5

SCHEMA: dict[str, Any] = {
    "title": "Score",
    "type": "object",
    "properties": {
        "why": {"type": "string"},
        "score": {"type": "integer", "enum": list(range(LEAST, MOST + 1))},
    },
    "required": ["why", "score"],
    "additionalProperties": False,
}
"""The reason first: a model that has said what is wrong scores better than one that must defend a number."""

_NUMBER = regex.compile(r"(?<![\d.])([1-5])(?!\d|\.\d)")
_IN_JSON = regex.compile(r'"score"\s*:\s*([1-5])(?!\d|\.\d)')
_MAX_TOKENS = 256


def score_ask(row: Row, top_p: float) -> Ask:
    """The request, in the language of the row. It is asked at temperature 0."""
    said = prompt_set("zh" if row.language == "zh" else "en")["score"]
    message = said["message"].strip().format(instruction=row.instruction, input=row.input or "-", output=row.output)
    messages = ({"role": "system", "content": said["system"]}, {"role": "user", "content": message})
    return Ask("score", messages, SCHEMA, said["form"].strip(), top_p=top_p, max_tokens=_MAX_TOKENS)


def score_of(answer: Answer) -> int | None:
    """1 to 5, out of JSON, whole or cut, or as the first such number of plain text; None where there is none."""
    begins, ends = answer.text.find("{"), answer.text.rfind("}")
    if begins >= 0:
        try:
            said = json.loads(answer.text[begins : ends + 1])
        except (ValueError, RecursionError):
            said = None
        if isinstance(said, dict):
            score = said.get("score")
            return score if type(score) is int and LEAST <= score <= MOST else None
    found = (_IN_JSON if begins >= 0 else _NUMBER).search(answer.text)
    return int(found[1]) if found else None
