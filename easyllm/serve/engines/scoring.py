"""Log-probabilities of given tokens."""

from typing import Any

from easyllm.serve.contract import Scored


def score(model: Any, ids: list[int], likeliest: int) -> list[Scored]:
    """One forward pass over ``ids``."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, :-1]
        values = logits.float().log_softmax(-1)
        wanted = torch.tensor(ids[1:], device=model.device)
        own = values.gather(-1, wanted[:, None])[:, 0].tolist()
        top = values.topk(max(1, likeliest), dim=-1)
    places = zip(own, top.indices.tolist(), top.values.tolist(), strict=True)
    found: list[Scored] = [(None, None)]
    for value, best, best_values in places:
        found.append((value, dict(zip(best[:likeliest], best_values[:likeliest], strict=True))))
    return found
