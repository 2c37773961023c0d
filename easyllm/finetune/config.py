"""What can be asked of finetuning."""

from typing import Annotated, Literal

from pydantic import Field

from easyllm.core.inputs import Takes
from easyllm.core.section import Section


class Lora(Section):
    """The adapter: beside each target layer stands a pair of small matrices, and only they are trained."""

    rank: int = Field(default=16, ge=1)
    """Inner width of the pair; trained parameters grow with it."""
    alpha: float = Field(default=32, gt=0)
    """The pair's output is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the pair's inputs dropped while training."""
    targets: Literal["auto"] | list[str] = "auto"
    """Names of the layers to adapt, or auto: every linear layer of the model but its output head."""


class Batch(Section):
    """How many rows an optimizer step sees, and how many at once."""

    global_samples: int = Field(default=8, ge=1)
    """Rows in an optimizer step; a multiple of micro_samples. The last step of an epoch takes what is left."""
    micro_samples: int = Field(default=4, ge=1)
    """Rows in one forward pass; less needs less memory, and the result is the same."""


class FinetuneConfig(Section):
    """Instruction rows and a model become an adapter; the loss stands on the answers only."""

    base: Annotated[str, Takes("model", "model")] = "convert"
    """The model to tune: a stage, a directory, a .gguf file, hf:org/name, modelscope:org/name or package:NAME."""
    method: Literal["lora", "full", "int8", "qlora"] = "lora"
    """How to tune; only lora is built."""
    data: Annotated[list[str], Takes("files", "rows")] = Field(min_length=1)
    """Rows {"instruction","input","output"} or {"messages":[...]}, mixed: instruct, files, folders or globs."""
    validation_rows: int = Field(default=0, ge=0)
    """Different rows held out of training, chosen by the hash of seed and words; evaluate measures on them."""
    lora: Lora = Lora()
    """The adapter's shape."""
    epochs: int = Field(default=3, ge=1)
    """Times every row is seen."""
    batch: Batch = Batch()
    """Rows in a step."""
    sequence_tokens: int = Field(default=512, ge=8)
    """Longest row in tokens, template included."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """What to do with a longer row; it is never cut, for a cut answer teaches the model not to stop."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Highest rate; it falls to zero along half a cosine."""
    warmup_ratio: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps in which the rate rises from zero."""
    checkpoint_every_steps: int = Field(default=20, ge=1)
    """Optimizer steps between two states that a cut run can go on from."""
