"""Log-probabilities of given tokens: what ``echo`` and ``logprobs`` of /v1/completions tell."""

from typing import Any

from easyllm.serve.contract import Scored, Whole


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


def choice(tokenizer: Any, prompt: list[int], answer: Whole, scored: list[Scored], likeliest: int, echo: bool) -> Any:
    """The text and its ``logprobs`` object, as OpenAI's completions have it; ``scored`` is of prompt and answer."""
    before = tokenizer.decode(prompt) if echo else ""
    ids = [*prompt, *[piece.token.id for piece in answer.pieces]]
    first = 0 if echo else len(prompt)
    texts = [tokenizer.decode([number]) for number in ids]
    offsets, at = [], 0
    for text in texts[first:]:
        offsets.append(at)
        at += len(text)
    tops = [_named(tokenizer, texts[place], *scored[place]) for place in range(first, len(ids))]
    return {
        "text": before + answer.text,
        "logprobs": {
            "tokens": texts[first:],
            "token_logprobs": [value for value, _ in scored[first:]],
            "top_logprobs": tops if likeliest else None,
            "text_offset": offsets,
        },
    }


def _named(tokenizer: Any, own: str, value: float | None, best: dict[int, float] | None) -> dict[str, float] | None:
    """By text, the chosen token among them. Two ids may have one text (halves of a character): the likelier counts."""
    if best is None or value is None:
        return None
    named: dict[str, float] = {}
    for number, likelihood in best.items():
        named.setdefault(tokenizer.decode([number]), likelihood)
    named.setdefault(own, value)
    return named
