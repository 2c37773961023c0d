"""What can be asked of a merge."""

from typing import Annotated

from easyllm.core.inputs import Takes
from easyllm.core.section import Section


class MergeConfig(Section):
    """An adapter and the base it was trained on become one model of the base's shape and precision."""

    adapter: Annotated[str, Takes("artifact", "adapter")] = "finetune"
    """The adapter: a stage or the directory of one. Its manifest names the base, which must not have changed."""
