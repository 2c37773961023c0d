"""How long a prompt and its answer may be, and what their keys and values cost. Reads JSON only, no torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.errors import Problem, problem, refuse
from easyllm.core.messages import say
from easyllm.serve.config import ServeConfig

DEFAULT_TOTAL_TOKENS = 2048
PAGE_TOKENS = 64
"""Tokens of one page of the key-value cache: small, so that short answers do not hold a long one's memory."""


@dataclass(frozen=True)
class Limits:
    """What one request may use, and how many may run at once."""

    total_tokens: int
    input_tokens: int
    concurrent_requests: int
    queued_requests: int = 0
    """How many more may wait for their turn."""

    @property
    def cache_blocks(self) -> int:
        """Pages such that every request allowed at once can grow to the full length: none is ever evicted."""
        return self.concurrent_requests * -(-self.total_tokens // PAGE_TOKENS)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; empty where there is none. Raises UserError SERVE-014 where it holds no object."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise refuse("SERVE-014", stage="serve", key="serve.model", path=str(path), reason=str(error)) from error
    if not isinstance(data, dict):
        raise refuse("SERVE-014", stage="serve", key="serve.model", path=str(path), reason=say("file_no_object"))
    return data


def model_positions(config: dict[str, Any]) -> int | None:
    """The longest sequence a model was made for, from its config.json; None where it sets no limit."""
    return _size(config, "max_position_embeddings", "n_positions") or None


def _size(config: dict[str, Any], *names: str) -> int:
    """The first of ``names`` that config.json sets, 0 where it sets none. UserError SERVE-014 where it is no size."""
    name, value = next(((name, config[name]) for name in names if config.get(name)), ("", 0))
    if not isinstance(value, int) or value < 0:
        reason = f"{name}: {value!r}"
        raise refuse("SERVE-014", stage="serve", key="serve.model", path="config.json", reason=reason)
    return value


def choose_limits(config: ServeConfig, positions: int | None) -> tuple[Limits, Decision]:
    """The limits of a model with ``positions``, and why."""
    if config.max_total_tokens:
        total, why = config.max_total_tokens, say("why_in_recipe")
    elif positions and positions <= DEFAULT_TOTAL_TOKENS:
        total, why = positions, say("why_model_limit")
    else:
        total = DEFAULT_TOTAL_TOKENS
        why = say("why_default_limit", positions=positions) if positions else say("why_limit_open")
    most = config.max_concurrent_requests
    limits = Limits(total, config.max_input_tokens or total - 1, most, config.max_queued_requests)
    return limits, Decision("max_total_tokens", total, why)


def limit_problems(config: ServeConfig, positions: int | None) -> list[Problem]:
    """SERVE-005 and SERVE-006: limits that contradict each other, or the model."""
    found = []
    if positions and config.max_total_tokens and config.max_total_tokens > positions:
        found.append(
            problem(
                "SERVE-006", stage="serve", key="serve.max_total_tokens",
                asked=config.max_total_tokens, positions=positions,
            )
        )  # fmt: skip
    total = choose_limits(config, positions)[0].total_tokens
    if config.max_input_tokens and config.max_input_tokens >= total:
        found.append(
            problem(
                "SERVE-005", stage="serve", key="serve.max_input_tokens",
                asked=config.max_input_tokens, total=total, largest=total - 1,
            )
        )  # fmt: skip
    if config.ask:
        found += question_problems(config, choose_limits(config, positions)[0], 1)
    return found


def question_problems(config: ServeConfig, limits: Limits, tokens: int) -> list[Problem]:
    """SERVE-015 where a question of so many tokens and the answer that the rehearsal wants are more than may be."""
    most = min(limits.total_tokens, limits.input_tokens + config.ask_tokens)
    if tokens + config.ask_tokens <= most:
        return []
    return [
        problem(
            "SERVE-015", stage="serve", key="serve.ask_tokens", question=tokens, answer=config.ask_tokens,
            total=limits.total_tokens, input=limits.input_tokens,
        )
    ]  # fmt: skip


def cache_bytes(limits: Limits, config: dict[str, Any], bytes_per_value: int) -> int:
    """Largest size of the key-value cache for this config.json, in bytes; it is taken as it fills."""
    layers = _size(config, "num_hidden_layers", "n_layer")
    heads = _size(config, "num_attention_heads", "n_head")
    hidden = _size(config, "hidden_size", "n_embd")
    head_values = _size(config, "head_dim") or (hidden // heads if heads else 0)
    key_value_heads = _size(config, "num_key_value_heads") or heads
    per_token = 2 * layers * key_value_heads * head_values * bytes_per_value
    return int(limits.cache_blocks * PAGE_TOKENS * per_token)
