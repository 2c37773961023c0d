"""How long a prompt and its answer may be, and what their keys and values cost. Reads JSON only, no torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.errors import Problem, problem
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
    """The JSON object in ``path``; empty where there is none."""
    if not path.is_file():
        return {}
    data = json.loads(path.read_text("utf-8"))
    return data if isinstance(data, dict) else {}


def model_positions(config: dict[str, Any]) -> int | None:
    """The longest sequence a model was made for, from its config.json; None where it sets no limit."""
    value = config.get("max_position_embeddings") or config.get("n_positions")
    return int(value) if value else None


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
    return found


def cache_bytes(limits: Limits, config: dict[str, Any], bytes_per_value: int) -> int:
    """Largest size of the key-value cache for this config.json, in bytes; it is taken as it fills."""
    layers = config.get("num_hidden_layers") or config.get("n_layer") or 0
    heads = config.get("num_attention_heads") or config.get("n_head") or 0
    hidden = config.get("hidden_size") or config.get("n_embd") or 0
    head_values = config.get("head_dim") or (hidden // heads if heads else 0)
    key_value_heads = config.get("num_key_value_heads") or heads
    per_token = 2 * layers * key_value_heads * head_values * bytes_per_value
    return int(limits.cache_blocks * PAGE_TOKENS * per_token)
