"""The rehearsal of a deployment: the real server and real clients, held against plain ``generate()``."""

import gc
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from easyllm.core.artifact import Decision
from easyllm.core.chat import render_question
from easyllm.core.errors import UserError, failed
from easyllm.core.launch import threads_per_rank
from easyllm.core.messages import say
from easyllm.core.progress import note
from easyllm.serve.adapters.settings import AdapterSettings
from easyllm.serve.clients import ask_all
from easyllm.serve.config import ServeConfig
from easyllm.serve.engines.embedded import greedy_reference
from easyllm.serve.engines.loading import load_weights
from easyllm.serve.engines.precision import decide_dtype
from easyllm.serve.limits import Limits, choose_limits, model_positions, question_problems, read_json
from easyllm.serve.process import running_server
from easyllm.serve.text import decode
from easyllm.serve.words import load_words

DOORS = ("openai", "openai_stream", "hub_chat", "hub_text")
"""The ways each question is asked; all must give the same text."""


@dataclass(frozen=True)
class Rehearsal:
    """What came out."""

    answers: list[dict[str, Any]]
    seconds_to_healthy: float
    decisions: list[Decision]

    def metrics(self) -> dict[str, Any]:
        """Median time to the first token and speed of one stream, over the prompts."""
        found: dict[str, Any] = {"prompts": len(self.answers), "seconds_to_healthy": self.seconds_to_healthy}
        for name in ("first_token_seconds", "tokens_per_second"):
            values = [answer[name] for answer in self.answers if answer[name] is not None]
            if values:
                found[name] = statistics.median(values)
        return found


def rehearse(
    model: Path, name: str, config: ServeConfig, adapters: AdapterSettings | None = None, gguf: Path | None = None
) -> Rehearsal:
    """Ask the prompts of ``config.ask`` through every door of a server started for it.

    Raises UserError where the model may not be served and StageFailed where two answers differ.
    """
    tokenizer, _, ends = load_words(model)
    limits = choose_limits(config, model_positions(read_json(model / "config.json")))[0]
    questions = [ask(tokenizer, prompt, config, limits) for prompt in config.ask]
    references: list[dict[str, Any] | None] = [None] * len(questions)
    decisions: list[Decision] = []
    exact = False
    if config.engine == "embedded":  # the others are proven, as far as can be, by the server as it loads
        references, decision = reference_answers(model, tokenizer, ends, questions, config.dtype)
        decisions, exact = [decision], decision.value == "float32"
    with running_server(model, name, config, adapters, gguf) as server:
        answers = ask_all(server.url, name, questions) if questions else []
        seconds = server.seconds_to_healthy
    told = [
        compare(question, answer, reference, exact)
        for question, answer, reference in zip(questions, answers, references, strict=True)
    ]
    for entry in told:
        note(say("serve_asked", question=entry["prompt"], answer=entry["answer"]))
    return Rehearsal(told, seconds, decisions)


def ask(tokenizer: Any, prompt: str, config: ServeConfig, limits: Limits) -> dict[str, Any]:
    """A question as the clients take it. Raises UserError SERVE-015 where the server would refuse it as too long."""
    ids = render_question(tokenizer, prompt, "serve", "serve.ask")
    problems = question_problems(config, limits, len(ids))
    if problems:
        raise UserError(*problems)
    return {"prompt": prompt, "rendered": rendered_text(tokenizer, ids), "tokens": config.ask_tokens}


def reference_answers(
    model: Path, tokenizer: Any, ends: list[int], questions: list[dict[str, Any]], asked: str
) -> tuple[list[dict[str, Any] | None], Decision]:
    """(the answers of plain ``generate()``, the dtype)."""
    torch.set_num_threads(threads_per_rank(1))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype, why = decide_dtype(asked, device)
    decision = Decision("dtype", str(dtype).removeprefix("torch."), why)
    if not questions:
        return [], decision
    weights = load_weights(model, dtype, device)
    references: list[dict[str, Any] | None] = []
    for question in questions:
        ids = render_question(tokenizer, question["prompt"], "serve", "serve.ask")
        answer = greedy_reference(weights, ids, question["tokens"], ends)
        text = decode(tokenizer, answer[:-1] if answer[-1] in ends else answer)
        references.append({"ids": answer, "text": text})
    del weights
    gc.collect()  # the server is about to hold the same weights
    return references, decision


def rendered_text(tokenizer: Any, ids: list[int]) -> str:
    """The text whose token ids, encoded the way a server does it, are ``ids``."""
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    bos = tokenizer.bos_token
    if bos and text.startswith(bos) and tokenizer.encode(text) != ids:
        text = text.removeprefix(bos)  # the tokenizer puts it there itself
    return text


def compare(
    question: dict[str, Any], answer: dict[str, Any], reference: dict[str, Any] | None, exact: bool
) -> dict[str, Any]:
    """The one answer all doors gave. Raises StageFailed where they, or in fp32 ``generate()``, disagree.

    ``reference`` is what ``generate()`` said, None where nobody asked it.
    """
    said = {door: answer[door] for door in DOORS}
    same = None if reference is None else answer["ids"] == reference["ids"]
    if exact and reference:
        said["generate()"] = reference["text"]
    if len(set(said.values())) > 1 or (exact and not same):
        lines = "\n".join(f"  {door}: {text!r}" for door, text in said.items())
        raise failed("SERVE-010", stage="serve", prompt=question["prompt"], answers=lines)
    kept = ("finish_reason", "prompt_tokens", "tokens", "first_token_seconds", "tokens_per_second")
    return {
        "prompt": question["prompt"],
        "answer": answer["openai"],
        "same_as_generate": same,
        **{key: answer[key] for key in kept},
    }
