"""What a recipe may ask of align. The stage is not built yet: its contract stands, and it refuses."""

from typing import Annotated, Literal

from easyllm.core.inputs import Takes
from easyllm.core.section import Section


class AlignConfig(Section):
    """Preference pairs to a better model. NOT BUILT YET: a recipe with it is refused."""

    base: Annotated[str, Takes("model", "model")] = "merge"
    """Model to start from: a stage, a directory, hf:org/name."""
    method: Literal["dpo", "orpo", "kto"] = "dpo"
    """Preference objective."""
    data: Annotated[list[str], Takes("files")]
    """Rows {"prompt", "chosen", "rejected"}: files, folders or globs."""
