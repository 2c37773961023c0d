"""Which model a request asks for: the base, or one of its adapters by name. The same in both dialects."""

from typing import Any

from easyllm.serve.adapters.inputs import RESERVED
from easyllm.serve.desk import Desk
from easyllm.serve.refusals import Refused, invalid


def adapter_names(desk: Desk) -> list[str]:
    """Of the adapters that can be asked for now."""
    adapters = desk.loaded.adapters if desk.loaded else None
    return [card.name for card in adapters.cards()] if adapters else []


def adapter_of_model(desk: Desk, model: str | None) -> str | None:
    """The adapter that an OpenAI request's ``model`` means, None for the base.

    No name means the base; a wrong one is refused with 404, and never answered by another model.
    """
    base = desk.about.name
    if model is None or model in (base, *RESERVED):
        return None
    names = adapter_names(desk)
    if model in names:
        return model
    known = ", ".join(f"`{name}`" for name in (base, *names))
    raise Refused(404, f"The model `{model}` does not exist; this server has {known}", "model", "model_not_found")


def adapter_of_id(desk: Desk, adapter_id: str | None) -> str | None:
    """The adapter that a request of text-generation-inference names; 422 where there is none of that name."""
    names = adapter_names(desk)
    if adapter_id is None or adapter_id in names:
        return adapter_id
    known = ", ".join(f"`{name}`" for name in names) or "none"
    raise invalid(f"`adapter_id`: there is no adapter `{adapter_id}`; this server has {known}", "adapter_id")


def model_cards(desk: Desk, started: int) -> list[dict[str, Any]]:
    """The base and its adapters as /v1/models lists them; root, parent and max_model_len are as vLLM has them."""
    base = desk.about.name
    shared = {"object": "model", "owned_by": "easyllm", "max_model_len": desk.about.limits.total_tokens}
    found: list[dict[str, Any]] = [{"id": base, "created": started, **shared, "root": base, "parent": None}]
    adapters = desk.loaded.adapters if desk.loaded else None
    for card in adapters.cards() if adapters else []:
        found.append({"id": card.name, "created": card.created, **shared, "root": card.root, "parent": base})
    return found
