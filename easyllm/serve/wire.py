"""What goes over the wire to the remote engine, and what comes back, in OpenAI's words and a few of vLLM's."""

from dataclasses import dataclass
from typing import Any

from easyllm.core.messages import say
from easyllm.serve.contract import EngineFailed, Sampling, Token

BAD_GATEWAY = 502


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
        # Neutral, but said: vLLM fills what is left out from the model's generation_config.json.
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        # Our end tokens and no others: vLLM knows generation_config's, but not the template's turn end.
        "ignore_eos": True,
        "stop_token_ids": ends,
        "return_token_ids": True,
        "logprobs": 0,
    }
    return body if sampling.seed is None else body | {"seed": sampling.seed}


@dataclass(frozen=True)
class Event:
    """One event of a streamed answer."""

    tokens: list[Token]
    """vLLM may put several into one, and the last event may hold none."""
    text: str
    """As the server reads its own tokens; ours comes from our own tokenizer."""
    prompt_tokens: int | None
    """As the server counts them, where it says so."""


def event_of(chunk: dict[str, Any]) -> Event:
    """Raises Unfit where token ids or log-probabilities are missing, KeyError and the like where it is gibberish."""
    counted = (chunk.get("usage") or {}).get("prompt_tokens")
    if not chunk["choices"]:
        return Event([], "", counted)
    choice = chunk["choices"][0]
    ids = choice.get("token_ids")
    if ids is None:
        raise Unfit(say("unfit_text_only"))
    logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or []
    if len(logprobs) != len(ids):
        raise Unfit(say("unfit_logprobs", tokens=len(ids), logprobs=len(logprobs)))
    tokens = [Token(int(number), float(logprob)) for number, logprob in zip(ids, logprobs, strict=True)]
    return Event(tokens, str(choice["text"]), counted)
