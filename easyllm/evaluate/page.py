"""The report as one static page: no script, nothing from elsewhere, everything a model said is escaped."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from easyllm.core.messages import language, term

STYLE = """
:root { color-scheme: light dark; --line: #8884; --mark: #ffe08a; --good: #197a3e; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --mark: #5c4a00; --good: #6fd08c; --bad: #ff8a80; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
.figures { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
article { border-top: 1px solid var(--line); padding: .7rem 0; }
article h3 { font-size: 1rem; margin: 0; white-space: pre-wrap; }
.expected { opacity: .75; margin: .2rem 0; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); gap: .7rem; }
.sides h4 { font-size: .85rem; font-weight: 600; opacity: .75; margin: .3rem 0 0; }
.sides p { margin: 0; white-space: pre-wrap; }
mark { background: var(--mark); color: inherit; }
.hit { color: var(--good); } .miss { color: var(--bad); }
"""


@dataclass(frozen=True)
class Answer:
    """What one side said."""

    side: str
    text: str
    hit: bool | None
    """None where nothing is expected."""


Answered = tuple[str, Sequence[str], Sequence[Answer]]
"""A prompt, the texts expected of it, and what each side said."""


def page(titles: Sequence[str], figures: Sequence[Sequence[str]], answered: Sequence[Answered]) -> str:
    """A table of figures, then every prompt with the answers side by side; words that the first lacks are marked."""
    title = escape(term("evaluation"))
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in titles)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>\n"
        for name, *cells in figures
    )
    parts = [
        f'<!doctype html>\n<html lang="{language()}">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # Nothing that a model said may load or run anything, whatever a browser makes of it.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>",
        f'<div class="figures" tabindex="0"><table>\n<tr>{head}</tr>\n{body}</table></div>',
    ]
    if answered:
        parts += [f"<h2>{escape(term('answers'))}</h2>", *[_article(*row) for row in answered]]
    return "\n".join([*parts, "</body>\n</html>"]) + "\n"


def _article(prompt: str, expect: Sequence[str], answers: Sequence[Answer]) -> str:
    parts = [f"<article>\n<h3>{escape(prompt)}</h3>"]
    if expect:
        parts.append(f'<p class="expected">{escape(term("expected"))}: {escape(" / ".join(expect))}</p>')
    parts.append('<div class="sides">')
    first = answers[0].text
    for number, answer in enumerate(answers):
        said = _marked(first, answer.text) if number else escape(answer.text)
        parts.append(f"<section><h4>{escape(answer.side)}</h4><p>{_sign(answer.hit)}{said}</p></section>")
    return "\n".join([*parts, "</div>\n</article>"])


def _sign(hit: bool | None) -> str:
    if hit is None:
        return ""
    return '<span class="hit">✓</span> ' if hit else '<span class="miss">✗</span> '


def _marked(first: str, text: str) -> str:
    """``text`` escaped, with the words marked that ``first`` does not hold at that place; Chinese by the character."""
    ours, theirs = _words(text), _words(first)
    parts = []
    for what, _, _, start, end in difflib.SequenceMatcher(None, theirs, ours, autojunk=False).get_opcodes():
        piece = escape("".join(ours[start:end]))
        parts.append(piece if what == "equal" or not piece.strip() else f"<mark>{piece}</mark>")
    return "".join(parts)


def _words(text: str) -> list[str]:
    return re.findall(r"[\u2e80-\u9fff\uac00-\ud7af]|\s+|[^\s\u2e80-\u9fff\uac00-\ud7af]+", text)
