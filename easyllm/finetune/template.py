"""The chat template that rows are rendered by: the base's own, one of ours, or the user's file."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.messages import say
from easyllm.core.stage import Job
from easyllm.core.templates import CHATML_TOKENS, our_template, portable
from easyllm.finetune.config import FinetuneConfig


@dataclass(frozen=True)
class Chosen:
    """What was done to the tokenizer."""

    added: tuple[str, ...]
    """Special tokens the tokenizer lacked."""
    saved: str
    """The template that is saved: one of ours without its marks, which some servers do not know."""
    decisions: list[Decision]


def template_problems(job: Job[FinetuneConfig]) -> list[Problem]:
    """TEMPLATE-010 to TEMPLATE-012, known without a tokenizer."""
    source = job.inputs.get("template_file")
    if source is None:
        return []
    key = f"{job.stage}.template_file"
    if "template" in job.config.model_fields_set:
        return [problem("TEMPLATE-010", stage=job.stage, key=key, template=job.config.template)]
    if len(source.files) != 1:
        return [problem("TEMPLATE-012", stage=job.stage, key=key, count=len(source.files))]
    try:
        read_template(source.files[0], job.stage, key)
    except UserError as error:
        return list(error.problems)
    return []


def read_template(file: Path, stage: str, key: str) -> str:
    """A user's Jinja file. Raises UserError TEMPLATE-011 where it is not UTF-8, empty or no Jinja."""
    place: dict[str, Any] = {"stage": stage, "key": key, "file": file}
    try:
        # utf-8-sig: some editors begin a file with a mark that would stand in every prompt.
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(problem("TEMPLATE-011", **place, reason=str(error))) from error
    if not text.strip():
        raise UserError(problem("TEMPLATE-011", **place, reason=say("template_empty")))
    if find_spec("jinja2"):  # it comes with torch, which a machine that only checks recipes may lack
        import jinja2

        try:
            # Not only parsed: a filter that does not exist, or a break outside of a loop, is found by compiling alone.
            jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).from_string(portable(text))
        except jinja2.TemplateSyntaxError as error:
            reason = str(error.message).rstrip(".")
            raise UserError(problem("TEMPLATE-011", **place, line=error.lineno, reason=reason)) from error
        except SyntaxError as error:
            raise UserError(problem("TEMPLATE-011", **place, reason=error.msg)) from error
    return text


def choose(tokenizer: Any, job: Job[FinetuneConfig]) -> Chosen:
    """Give ``tokenizer`` the template, in place. Raises UserError TEMPLATE-004 where it has no end-of-text token."""
    problems = template_problems(job)
    if problems:
        raise UserError(*problems)
    if "template_file" in job.inputs:
        [file] = job.inputs["template_file"].files
        tokenizer.chat_template = read_template(file, job.stage, f"{job.stage}.template_file")
        decision = Decision("chat_template", file.name, say("why_in_recipe"))
        return Chosen((), tokenizer.chat_template, [decision])
    name = job.config.template
    if name == "own" and tokenizer.chat_template:
        return Chosen((), tokenizer.chat_template, [])
    if name != "chatml" and tokenizer.eos_token is None:
        raise UserError(problem("TEMPLATE-004", stage=job.stage, key="finetune.base"))
    why = say("why_plain_template", end=tokenizer.eos_token) if name == "own" else say("why_in_recipe")
    name = "plain" if name == "own" else name
    tokenizer.chat_template = our_template(name)
    added = _add(tokenizer, CHATML_TOKENS) if name == "chatml" else ()
    decisions = [Decision("chat_template", name, why)]
    if added:
        decisions.append(Decision("added_tokens", list(added), say("why_added_tokens")))
    return Chosen(added, portable(our_template(name)), decisions)


def _add(tokenizer: Any, tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``tokens`` that the tokenizer lacked; it has all of them as special tokens now."""
    from tokenizers import AddedToken

    lacked = tuple(token for token in tokens if token not in tokenizer.get_vocab())
    # One that is there as a plain token becomes special too: it stands for no text of anybody's.
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
    return lacked
