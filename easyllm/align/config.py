"""What can be asked of align."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from easyllm.core.inputs import Takes
from easyllm.core.section import Section
from easyllm.core.tuning.config import Batch, Lora, Method, Quantisation

Objective = Literal["dpo", "orpo", "kto"]


class AlignConfig(Section):
    """Preference pairs and a model become a model that prefers what was chosen; TRL does the training."""

    HOW: ClassVar[frozenset[str]] = frozenset({"checkpoint_every_steps"})

    base: Annotated[str, Takes("model", "model", "adapter")] = "finetune"
    """The model to start from: a stage, a directory, hf:org/name, package:NAME; an adapter is trained on as it is."""
    data: Annotated[list[str], Takes("files")] = Field(min_length=1)
    """Rows {"prompt", "chosen", "rejected"}, texts or lists of messages, in files, folders or globs.

    Without a prompt, chosen and rejected are whole conversations that part somewhere. kto takes rows
    {"prompt", "completion", "label": true or false} too. A row's "system" and "tools" are read as finetune reads them.
    """
    objective: Objective = "dpo"
    """dpo: away from the start only as far as the pairs ask (arXiv 2305.18290); orpo: no reference, it learns the
    chosen answers too (arXiv 2403.07691); kto: answers judged one by one (arXiv 2402.01306)."""
    method: Method = "lora"
    """lora: an adapter; full: every weight; int8, qlora: an adapter on a base stored in 8 or 4 bits."""
    beta: float = Field(default=0.1, gt=0)
    """dpo, kto: how dear it is to leave the reference; orpo: the weight of its odds-ratio term."""
    lora: Lora = Lora()
    """The adapter's shape; not for a base that is an adapter."""
    quantisation: Quantisation = Quantisation()
    """How int8 and qlora store the base."""
    validation_rows: int = Field(default=0, ge=0)
    """Different rows held out of training, chosen by the hash of seed and words; the report measures them too."""
    epochs: int = Field(default=1, ge=1)
    """Times every row is seen."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many optimizer steps, wherever the epoch is; the learning rate falls to zero by then."""
    batch: Batch = Batch()
    """Rows in a step. kto compares the rows of a micro batch with each other, so it needs at least two in one."""
    sequence_tokens: int = Field(default=512, ge=8)
    """Longest prompt with one of its answers, in tokens, template included. Nothing is ever cut."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """What to do with a longer row."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Highest rate; unset: 1e-5 for adapters, 1e-6 for full; with orpo 8e-5 and 8e-6."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls to zero after the warm-up; constant: it does not."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the rate rises from zero."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """Longer gradients are cut to this length."""
    gradient_checkpointing: bool = False
    """Keep a layer's input alone and compute the rest again on the way back: less memory, a third more work."""
    checkpoint_every_steps: int = Field(default=20, ge=1)
    """Optimizer steps between two states that a cut run can go on from."""
