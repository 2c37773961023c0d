"""What can be asked of a merge."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from easyllm.core.inputs import Takes
from easyllm.core.section import Section


class Weighted(Section):
    """One of several adapters of the same base."""

    adapter: Annotated[str, Takes("artifact", "adapter", "model")]
    """The adapter: a stage or the directory of one."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """What its change of the base is multiplied by; below 0 it is taken away."""


class MergeConfig(Section):
    """Adapters and the base they were trained on become one model of the base's shape and precision."""

    adapter: Annotated[str | None, Takes("artifact", "adapter", "model")] = "finetune"
    """The adapter: a stage or the directory of one. Its manifest names the base, which must not have changed."""
    adapters: list[Weighted] = Field(default=[])
    """Instead of adapter: several of the same base. The base is changed by the weighted sum of their changes."""
    shard_gb: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    """Largest file of weights, in 10^9 bytes; merging holds one in memory."""

    @model_validator(mode="before")
    @classmethod
    def _one_unless_several(cls, said: Any) -> Any:
        if isinstance(said, dict) and said.get("adapters") and "adapter" not in said:
            return {**said, "adapter": None}
        return said
