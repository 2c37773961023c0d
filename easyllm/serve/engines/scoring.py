"""Log-probabilities of given tokens."""

from collections.abc import Callable
from typing import Any

from easyllm.serve.contract import Scored

TOKENS_AT_ONCE = 256
"""Of one forward pass: the logits of a long prompt and a large vocabulary would take more memory than the model."""


def score(
    model: Any,
    ids: list[int],
    likeliest: int,
    at_once: int = TOKENS_AT_ONCE,
    unwanted: Callable[[], bool] = lambda: False,
) -> list[Scored]:
    """Forward passes over ``ids``, piece by piece; what has been read stands in a key-value cache.

    ``unwanted`` is asked before each piece: once it is true, what has been scored so far comes back.
    """
    import torch

    found: list[Scored] = [(None, None)]
    cache = None
    with torch.inference_mode():
        for start in range(0, len(ids) - 1, at_once):
            if unwanted():
                break
            end = min(start + at_once, len(ids) - 1)
            piece = torch.tensor([ids[start:end]], device=model.device)
            output = model(input_ids=piece, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            found += _scored(output.logits[0], ids[start + 1 : end + 1], likeliest)
    return found


def _scored(logits: Any, wanted: list[int], likeliest: int) -> list[Scored]:
    """Of the tokens ``wanted`` at the places of ``logits`` [tokens, vocabulary]."""
    import torch

    values = logits.float().log_softmax(-1)
    own = values.gather(-1, torch.tensor(wanted, device=values.device)[:, None])[:, 0].tolist()
    top = values.topk(max(1, likeliest), dim=-1)
    places = zip(own, top.indices.tolist(), top.values.tolist(), strict=True)
    return [(value, dict(zip(best[:likeliest], more[:likeliest], strict=True))) for value, best, more in places]
