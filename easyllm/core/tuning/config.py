"""What can be asked of an adapter, of a quantised base and of a batch, wherever a model is tuned."""

from typing import Literal

from pydantic import ConfigDict, Field

from easyllm.core.section import Section

Method = Literal["lora", "full", "int8", "qlora"]

TOO_LONG = {"refuse": "why_never_cut", "drop": "why_left_out", "truncate": "why_cut"}
"""The text that says what becomes of rows over the limit, by the setting too_long."""


class Lora(Section):
    """The adapter: beside each target layer stands a pair of small matrices, and only they are trained."""

    model_config = ConfigDict(allow_inf_nan=False)

    rank: int = Field(default=16, ge=1)
    """Inner width of the pair; trained parameters grow with it."""
    alpha: float = Field(default=32, gt=0)
    """The pair's output is multiplied by alpha / rank, or by alpha / sqrt(rank) with rslora."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the pair's inputs dropped while training."""
    targets: Literal["auto"] | list[str] | str = "auto"
    """Layers to adapt: auto (every linear layer but the output head), a list of names (the end of a path is enough),
    or one regular expression that matches whole paths."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank): steadier at high ranks (rsLoRA, arXiv 2312.03732)."""
    dora: bool = False
    """Train the length of every weight row besides its direction (DoRA, arXiv 2402.09353)."""
    save_modules: Literal["auto"] | list[str] = "auto"
    """Layers trained whole beside the adapter; auto: none. Embeddings and head always are where the vocabulary grew."""


class Quantisation(Section):
    """How the frozen base of int8 and qlora is stored; bitsandbytes does it, on GPUs and on CPUs."""

    model_config = ConfigDict(allow_inf_nan=False)

    four_bit_type: Literal["nf4", "fp4"] = "nf4"
    """Of qlora: the sixteen values a weight may take (QLoRA, arXiv 2305.14314)."""
    double: bool = True
    """Of qlora: quantise the scales of the blocks too; saves 0.4 bits a parameter."""
    int8_threshold: float = Field(default=6.0, ge=0)
    """Of int8: columns with activations above it are computed unquantised (LLM.int8, arXiv 2208.07339)."""


class Batch(Section):
    """How many rows an optimizer step sees, and how many at once."""

    global_samples: int = Field(default=8, ge=1)
    """Rows in an optimizer step, of all ranks together. The last step of an epoch takes what is left."""
    micro_samples: int = Field(default=4, ge=1)
    """Rows in one forward pass of one rank; less needs less memory, and the result is the same."""
