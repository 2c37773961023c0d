"""What can be asked of an evaluation."""

from typing import Annotated

from pydantic import Field

from easyllm.core.inputs import Takes
from easyllm.core.section import Section


class EvaluateConfig(Section):
    """A tuned model beside its base: loss on held-out answers, and what both say to the same prompts."""

    model: Annotated[str, Takes("model", "model", "adapter")] = "merge"
    """The tuned model: a stage, a directory (an adapter's too), a .gguf file, hf:, modelscope: or package:NAME."""
    base: Annotated[str | None, Takes("model", "model")] = None
    """The model to compare with; by default the one that the tuned model was made from, if it says so."""
    data: Annotated[list[str] | None, Takes("files", "rows", part="held_out")] = None
    """Held-out instruction rows: instruct, files, folders or globs; by default those that finetune held out."""
    prompts: list[str] = Field(default=[])
    """Questions that both models answer, greedily."""
    prompt_files: Annotated[list[str] | None, Takes("files")] = None
    """More of them: rows {"prompt": text, "expect": text or texts}; an answer with one of those is a hit."""
    max_new_tokens: int = Field(default=32, ge=1)
    """Longest answer in tokens."""
    batch_samples: int = Field(default=8, ge=1)
    """Rows and prompts worked on at once."""
