"""What can be asked of finetuning."""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from easyllm.core.inputs import Takes
from easyllm.core.section import Section
from easyllm.core.tuning.config import Batch, Lora, Method, Quantisation


class Weighted(Section):
    """Rows that an epoch sees more or less often than once."""

    model_config = ConfigDict(allow_inf_nan=False)

    rows: Annotated[list[str] | str, Takes("files", "rows")]
    """Files, folders, globs, or instruct."""
    weight: float = Field(gt=0)
    """How often an epoch sees each of them: 2 is twice; 0.5 is half of them, another half in every epoch."""


class Validation(Section):
    """Held-out rows measured while training."""

    every_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between two measurements; unset: at the end of every epoch."""
    patience: int | None = Field(default=None, ge=1)
    """Stop early after so many measurements in a row without a better loss; unset: never."""
    keep_best: bool = False
    """Publish the weights of the best measurement instead of the last."""


class DeepSpeed(Section):
    """How engine deepspeed spreads what training keeps."""

    zero: Literal[0, 1, 2, 3] = 2
    """1 shards the optimizer over the ranks, 2 the gradients too, 3 the weights too (ZeRO, arXiv 1910.02054)."""
    offload_optimizer: Literal["none", "cpu"] = "none"
    """cpu keeps the optimizer in main memory and steps it there, by DeepSpeed's CPU Adam."""


class FinetuneConfig(Section):
    """Instruction rows and a model become an adapter or a model; the loss stands on the answers only."""

    model_config = ConfigDict(allow_inf_nan=False)

    HOW: ClassVar[frozenset[str]] = frozenset({"checkpoint_every_steps"})

    base: Annotated[str, Takes("model", "model")] = "convert"
    """The model to tune: a stage, a directory, a .gguf file, hf:org/name, modelscope:org/name or package:NAME."""
    method: Method = "lora"
    """lora: an adapter; full: every weight; int8, qlora: an adapter on a base stored in 8 or 4 bits."""
    data: Annotated[list[str | Weighted], Takes("files", "rows")] = Field(min_length=1)
    """Rows: instruct, files, folders or globs; {rows: ..., weight: 2} sees some of them more often."""
    validation_rows: int = Field(default=0, ge=0)
    """Different rows held out of training, chosen by the hash of seed and words; evaluate measures on them too."""
    validation: Validation = Validation()
    """When they are measured, and what follows from it."""
    template: Literal["own", "plain", "chatml", "alpaca"] = "own"
    """Chat template: the model's own (plain where it has none), or one of ours."""
    template_file: Annotated[str | None, Takes("files")] = None
    """A Jinja file with your own chat template, instead of ``template``."""
    labels: Literal["assistant", "last", "all"] = "assistant"
    """What the loss stands on: every answer, the last answer of a row, or all of its tokens."""
    lora: Lora = Lora()
    """The adapter's shape."""
    quantisation: Quantisation = Quantisation()
    """How int8 and qlora store the base."""
    epochs: int = Field(default=3, ge=1)
    """Times every row is seen."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many optimizer steps, wherever the epoch is; the learning rate falls to zero by then."""
    batch: Batch = Batch()
    """Rows in a step."""
    packing: bool | Literal["auto"] = "auto"
    """Lay rows end to end without padding, none seeing another; auto: where the architecture can do it exactly."""
    sequence_tokens: int = Field(default=512, ge=8)
    """Longest row in tokens, template included."""
    too_long: Literal["refuse", "drop", "truncate"] = "refuse"
    """What to do with a longer row; a truncated answer has no end token, and the audit counts those."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Highest rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls to zero after the warm-up; constant: it does not."""
    warmup_ratio: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps in which the rate rises from zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's; norms and biases are spared."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """Longer gradients are cut to this length."""
    neftune_alpha: float | None = Field(default=None, gt=0)
    """Noise on the embeddings while training (NEFTune, arXiv 2310.05914); 5 is usual."""
    gradient_checkpointing: bool = False
    """Keep a layer's input alone and compute the rest again on the way back: less memory, a third more work."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """What to compute in; auto: bf16 or fp16 on GPUs, fp32 on CPUs."""
    kernels: Literal["auto", "none", "liger"] = "auto"
    """Fused kernels: liger's, where they run (GPUs with triton); auto takes them where the package is there."""
    checkpoint_every_steps: int = Field(default=20, ge=1)
    """Optimizer steps between two states that a cut run can go on from."""
    engine: Literal["ddp", "deepspeed", "fsdp"] = "ddp"
    """How several ranks work on one model: copies, DeepSpeed's ZeRO, or PyTorch's fully sharded data parallel."""
    deepspeed: DeepSpeed = DeepSpeed()
    """Of engine deepspeed."""
    ranks: int = Field(default=1, ge=1)
    """Processes that share every step: GPUs, or on a CPU gloo processes; a recipe with ``cluster`` names them there."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: the GPUs that are there, else the CPU."""
