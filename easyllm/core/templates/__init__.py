"""Chat templates of ours, as Jinja files beside this one; what a model generates stands in {% generation %} marks."""

import re
from pathlib import Path

_MARK = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
"""What chatml is written with; a tokenizer without them must be given them."""


def our_template(name: str) -> str:
    """The text of plain, chatml or alpaca, with its marks."""
    return (Path(__file__).parent / f"{name}.jinja").read_text("utf-8").rstrip("\n")


def marked(template: str) -> bool:
    """Whether the template says itself what is generated."""
    return _MARK.search(template) is not None


def portable(template: str) -> str:
    """The same template without marks, for renderers that know plain Jinja alone; it renders the same text."""
    return _MARK.sub(lambda mark: f"{{%{mark[1]} {'endif' if mark[2] else 'if true'} {mark[3]}%}}", template)
