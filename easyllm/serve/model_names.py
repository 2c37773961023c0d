"""Which model a request asks for, the same in both dialects."""

from typing import Any

from easyllm.serve.desk import Desk
from easyllm.serve.refusals import Refused, invalid

ALIASES = ("tgi", "dummy")
"""What clients of text-generation-inference call the one model that is there."""


def adapter_of_model(desk: Desk, model: str | None) -> str | None:
    """The adapter that an OpenAI request's ``model`` means, None for the base.

    No name means the base; a wrong one is refused with 404, and never answered by another model.
    """
    base = desk.about.name
    if model is None or model in (base, *ALIASES):
        return None
    raise Refused(404, f"The model `{model}` does not exist; this server has `{base}`", "model", "model_not_found")


def adapter_of_id(desk: Desk, adapter_id: str | None) -> str | None:
    """The adapter that a request of text-generation-inference names; 422 where there is none of that name."""
    if adapter_id is not None:
        raise invalid(f"`adapter_id`: there is no adapter `{adapter_id}`; this server has none", "adapter_id")
    return None


def model_cards(desk: Desk, started: int) -> list[dict[str, Any]]:
    """The models as /v1/models lists them."""
    return [{"id": desk.about.name, "object": "model", "created": started, "owned_by": "easyllm"}]
