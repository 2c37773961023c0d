"""What goes over the wire to the remote engine, and what comes back, in OpenAI's words and a few of vLLM's."""

import json
from dataclasses import dataclass
from typing import Any

from easyllm.core.messages import say
from easyllm.serve.contract import EngineFailed, Grammar, Sampling, Scored, Token

BAD_GATEWAY, UNPROCESSABLE = 502, 422
TOKEN_ID = "token_id:"
"""How vLLM writes a token where it is asked not to write its text, which may be half a character."""


class Unfit(EngineFailed):
    """The server answers, but not in a way we can use, and waiting would not help."""

    def __init__(self, reason: str, its_status: int | None = None) -> None:
        super().__init__(say("upstream_unfit", reason=reason), BAD_GATEWAY)
        self.reason = reason
        self.its_status = its_status


def request_body(
    model: str, ids: list[int], max_new_tokens: int, sampling: Sampling, ends: list[int]
) -> dict[str, Any]:
    """The body of POST /v1/completions. Stop strings are not in it: they are found in our own text, as ever."""
    body = {
        "model": model,
        "prompt": ids,
        "max_tokens": max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        # Said also where neutral: vLLM fills what is left out from the model's generation_config.json.
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        # Our end tokens and no others: vLLM knows generation_config's, but not the template's turn end.
        "ignore_eos": True,
        "stop_token_ids": ends,
        "return_token_ids": True,
        "logprobs": sampling.likeliest,
    }
    # The rest is said only where it is asked for: a server that does not know a word of it serves all other requests.
    if sampling.typical_p != 1.0:
        raise EngineFailed(say("remote_typical"), UNPROCESSABLE)  # vLLM has no such cut
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if sampling.likeliest:
        body["return_tokens_as_token_ids"] = True
    if sampling.grammar:
        body["structured_outputs"] = structured_outputs(sampling.grammar)
    return body


def structured_outputs(grammar: Grammar) -> dict[str, Any]:
    """A grammar in vLLM's words (StructuredOutputsParams of its sampling_params.py)."""
    if grammar.kind == "json_object":
        return {"json_object": True}
    if grammar.kind == "regex":
        return {"regex": grammar.text}
    try:
        return {"json": json.loads(grammar.text)}
    except (ValueError, RecursionError) as error:
        raise EngineFailed(
            f"the grammar ({grammar.kind}) cannot be used: it is not JSON: {error}", UNPROCESSABLE
        ) from error


def score_body(model: str, ids: list[int], likeliest: int) -> dict[str, Any]:
    """The body of POST /v1/completions that scores given tokens; vLLM's shortest answer is one token."""
    return {
        "model": model, "prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": likeliest,
        "return_token_ids": True,
    }  # fmt: skip


def scores_of(answer: dict[str, Any], ids: list[int], likeliest: int) -> list[Scored]:
    """vLLM's ``prompt_logprobs``: None for the first token, then {id: {"logprob": ...}} of the given one and the best.

    Raises Unfit where it has none of that, KeyError and the like where it is gibberish.
    """
    places = answer["choices"][0].get("prompt_logprobs")
    if places is None or len(places) != len(ids):
        raise Unfit(say("unfit_scores", tokens=len(ids), scores=len(places or [])))
    found: list[Scored] = [(None, None)]
    for token, place in zip(ids[1:], places[1:], strict=True):
        values = {int(number): float(entry["logprob"]) for number, entry in place.items()}
        found.append((values[token], dict(best_first(values, likeliest))))
    return found


def best_first(values: dict[int, float], likeliest: int) -> tuple[tuple[int, float], ...]:
    """The ``likeliest`` entries; vLLM tells one more where the chosen token is not among them."""
    ordered = sorted(values.items(), key=lambda entry: -entry[1])
    return tuple(ordered[:likeliest])


@dataclass(frozen=True)
class Event:
    """One event of a streamed answer."""

    tokens: list[Token]
    """vLLM may put several into one, and the last event may hold none."""
    text: str
    """As the server reads its own tokens; ours comes from our own tokenizer."""
    prompt_tokens: int | None
    """As the server counts them, where it says so."""


def event_of(chunk: dict[str, Any], likeliest: int = 0) -> Event:
    """Raises Unfit where token ids or log-probabilities are missing, KeyError and the like where it is gibberish."""
    counted = (chunk.get("usage") or {}).get("prompt_tokens")
    if not chunk["choices"]:
        return Event([], "", counted)
    choice = chunk["choices"][0]
    ids = choice.get("token_ids")
    if ids is None:
        raise Unfit(say("unfit_text_only"))
    told = choice.get("logprobs") or {}
    logprobs = told.get("token_logprobs") or []
    if len(logprobs) != len(ids):
        raise Unfit(say("unfit_logprobs", tokens=len(ids), logprobs=len(logprobs)))
    best = [likeliest_of(named, likeliest) for named in told["top_logprobs"]] if likeliest else [()] * len(ids)
    tokens = [Token(int(n), float(logprob), top) for n, logprob, top in zip(ids, logprobs, best, strict=True)]
    return Event(tokens, str(choice["text"]), counted)


def likeliest_of(named: dict[str, float], likeliest: int) -> tuple[tuple[int, float], ...]:
    """Raises Unfit where tokens are named by their text: two tokens may have one."""
    if not all(name.startswith(TOKEN_ID) for name in named):
        raise Unfit(say("unfit_likeliest"))
    return best_first({int(name.removeprefix(TOKEN_ID)): float(value) for name, value in named.items()}, likeliest)
