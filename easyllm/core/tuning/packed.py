"""Attention in which rows that lie end to end never see each other: each is computed alone, without any mask.

transformers asks its registry for an attention by the name in the model's configuration, and passes on to it what
the model was called with; an attention that no mask is registered for gets none (transformers, masking_utils.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface

NAME = "easyllm_packed"


def attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
    dropout: float = 0.0, scaling: float | None = None, segment_lengths: tuple[int, ...] = (),
    sliding_window: int | None = None, softcap: float | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Causal attention within each segment. Without segments each row is one: padding at the right is not seen."""
    if softcap is not None or attention_mask is not None or query.shape[2] != key.shape[2]:
        raise ValueError("packed attention knows neither caps, masks nor caches")
    lengths = list(segment_lengths) or [query.shape[2]]
    grouped = query.shape[1] != key.shape[1]
    parts = []
    # One split, not many slices: the way back of a slice fills a tensor of full length with zeros.
    for q, k, v in zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True):
        window = _window(q, sliding_window)
        part = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=window, dropout_p=dropout, is_causal=window is None, scale=scaling, enable_gqa=grouped
        )
        parts.append(part)
    joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return joined.transpose(1, 2).contiguous(), None


def _window(query: torch.Tensor, width: int | None) -> torch.Tensor | None:
    """Who sees whom in a segment longer than the window; None where the window covers all of it."""
    tokens = query.shape[2]
    if width is None or tokens <= width:
        return None
    seen = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril()
    return seen.triu(1 - width)


AttentionInterface.register(NAME, attend)


def can_attend(model: Any) -> bool:
    """Whether the attention of this transformers model can be replaced by ours at all."""
    return bool(model._can_set_attn_implementation())


@contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """Inside, the transformers model in ``model`` attends by ``attend``; afterwards as before, and saves as before."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = inner.config._attn_implementation
    inner.set_attn_implementation(NAME)
    try:
        yield
    finally:
        inner.set_attn_implementation(before)
