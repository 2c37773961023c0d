"""What can be asked of pretraining."""

from typing import Annotated, Literal

from pydantic import Field

from easyllm.core.inputs import Takes
from easyllm.core.section import Section

Positive = Annotated[int, Field(ge=1)]


class Model(Section):
    """The model to train from nothing. Options of one family only are refused with the other."""

    family: Literal["llama", "gpt2"]
    """llama: RMSNorm, rotary positions, SwiGLU, grouped queries, no biases.
    gpt2: LayerNorm, learned positions, GELU, biases."""
    layers: Positive
    """Transformer layers."""
    hidden: Positive
    """Width of the hidden state."""
    heads: Positive
    """Attention heads; each is hidden / heads wide."""
    kv_heads: Positive | None = None
    """Key and value heads shared by groups of attention heads (llama only). Unset: as many as heads."""
    ffn_hidden: Positive | None = None
    """Width of the feed-forward layer.
    Unset: 4 x hidden for gpt2, 8/3 x hidden up to the next multiple of 64 for llama."""
    max_positions: Positive | None = None
    """Longest sequence the model takes, in tokens. Unset: sequence_tokens."""
    tie_embeddings: bool | None = None
    """Whether the output layer is the embedding. Unset: true for gpt2 (always), false for llama."""
    norm_epsilon: Annotated[float, Field(gt=0)] = 1e-5
    """Epsilon of the norms."""
    rope_theta: Annotated[float, Field(gt=0)] | None = None
    """Base period of the rotary positions (llama only). Unset: 10000."""
    init_std: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the first weights."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout of hidden states and of attention while training."""


class Ramp(Section):
    """A batch that grows, in equal steps over the samples trained on, until it is ``global_samples``."""

    from_samples: Positive
    """Samples of the first optimizer step; global_samples is this plus a multiple of by_samples."""
    by_samples: Positive
    """Samples by which the batch grows at a time."""
    over_samples: Positive
    """Samples trained on until the batch is whole."""


class Batch(Section):
    """How many samples an optimizer step takes. Nothing is rounded."""

    global_samples: Positive
    """Samples per optimizer step, over all ranks; a multiple of micro_samples x data parallel ranks."""
    micro_samples: Positive
    """Samples per rank per forward pass."""
    ramp: Ramp | None = None
    """Start with smaller batches. Unset: every batch is whole."""


class Parallel(Section):
    """How one copy of the model is spread over ranks. The first weights are the same for every layout."""

    tensor: Positive = 1
    """Ranks that share one copy of the model, each holding a part of every matrix."""
    pipeline: Positive = 1
    """Ranks in a row that share one copy, each holding layers / pipeline of the layers."""
    virtual_pipeline: Positive = 1
    """Shares of the layers per pipeline rank. More than one interleaves them: less waiting, more messages."""
    sequence: bool = False
    """Share norms and dropout between the tensor parallel ranks too, token by token: fewer activations a rank."""
    context: Positive = 1
    """Ranks that share one copy, each holding a part of every sequence. Needs Transformer Engine."""


class Optimizer(Section):
    """AdamW with warm-up and a schedule. Megatron counts it in samples, so a batch that grows stretches it."""

    learning_rate: Annotated[float, Field(gt=0)] = 1.5e-3
    """Highest learning rate, reached after the warm-up."""
    min_learning_rate: Annotated[float, Field(ge=0)] = 1.5e-4
    """Learning rate at the last step."""
    warmup_steps: Annotated[int, Field(ge=0)] = 10
    """Steps over which the learning rate rises linearly. A model that goes on from init needs it again: re-warming and
    then falling again took up new data best in Gupta et al. 2023, arXiv:2308.04014, and Ibrahim et al. 2024,
    arXiv:2403.08763."""
    warmup_from: Annotated[float, Field(gt=0)] | None = None
    """Learning rate of the first step, from which warm-up rises; for init the last rate of the training before, say.
    Unset: learning_rate / warmup_steps."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """From the highest to min_learning_rate after the warm-up. constant: never falls.
    wsd: constant, then falls over the last decay_steps."""
    decay_steps: Positive | None = None
    """Last steps over which wsd falls (wsd only). Unset: a tenth of the steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Weight decay of matrices; norms and biases have none."""
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Decay of the second moment; the first moment's is 0.9."""
    clip_grad: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are scaled down to this norm; 0 does not clip."""
    distributed: bool = False
    """Spread the optimizer's state over the data parallel ranks instead of a copy on each."""


class DeepSpeed(Section):
    """ZeRO and what goes with it; for engine deepspeed only."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """What the data parallel ranks share out instead of each holding all of it. 1: the optimizer's state.
    2: gradients too. 3: weights too, gathered layer by layer as they are needed."""
    offload_optimizer: Literal["none", "cpu"] = "none"
    """cpu: the optimizer's state lies in the host's memory, and DeepSpeedCPUAdam updates it there (ZeRO 1 to 3)."""
    config: Annotated[str | None, Takes("files")] = None
    """A JSON file of your own for DeepSpeed; what the recipe says already must not stand in it otherwise."""


class Validation(Section):
    """Loss on documents that are kept out of training."""

    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of each source's documents, taken from its end. Unset: the part that corpus.split held back; 0.01 where
    there is none. A part for the test is measured once, after the last step."""
    every_steps: Positive = 100
    """Steps between validations; there is always one after the last step."""
    samples: Positive
    """Samples per validation, the same ones every time; a multiple of micro_samples x data parallel ranks."""


class Replay(Section):
    """Samples of the kind of data that a model was trained on before, so that it forgets less of it."""

    corpus: Annotated[str, Takes("artifact", "corpus")]
    """The directory of a corpus artifact in the same tokens."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of the training samples. Ibrahim et al. 2024, arXiv:2403.08763, found 0.05 enough where the new data is
    like the old, and took up to 0.5 where it is in another language."""


class PretrainConfig(Section):
    """Indexed tokens to a Megatron checkpoint, with its loss curve."""

    # Another layout trains the same model from the same checkpoint.
    HOW = frozenset(
        {
            "ranks", "parallel", "recompute", "deepspeed", "checkpoint_every_steps", "keep_checkpoints",
            "timeout_seconds", "track", "peak_tflops",
        }
    )  # fmt: skip

    engine: Literal["megatron", "deepspeed"] = "megatron"
    """megatron: Megatron-Core's own optimizer, data and pipeline parallelism. deepspeed: the same model, data and
    schedule under DeepSpeed: ZeRO, CPU Adam."""
    deepspeed: DeepSpeed = DeepSpeed()
    """What engine deepspeed shares out and offloads."""
    corpus: Annotated[str, Takes("artifact", "corpus")] = "corpus"
    """The tokens: a stage, or the directory of a corpus artifact."""
    model: Model | None = None
    """A new model to train from nothing; either this or init."""
    init: Annotated[str | None, Takes("model", "model")] = None
    """Go on from the weights of a Hugging Face model: a stage (convert, merge), a directory with safetensors, a .gguf,
    hf:org/name, modelscope:org/name or package:NAME. Its config.json says what model it is. Every rank reads the files,
    so every node must see them."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout of hidden states and of attention while a model of init trains on; a new model has model.dropout.
    Unset: none."""
    new_rows: Literal["pieces", "mean", "random"] | None = None
    """What the embedding and output rows of tokens begin as that the corpus' tokenizer has and the model of init has
    not. pieces: the mean of the rows of the pieces into which the model's own tokenizer splits the new token's text.
    mean: the mean of all rows. random: drawn as a new model's. Unset: pieces."""
    replay: Replay | None = None
    """Mix another corpus in. Unset: all samples come from corpus."""
    sequence_tokens: Positive
    """Tokens per sample."""
    batch: Batch
    """Samples per step and per pass."""
    ranks: Positive = 1
    """Processes to start; data parallel ranks = ranks / (tensor x pipeline x context)."""
    parallel: Parallel = Parallel()
    """Which ranks split the model between them; the others hold copies and other samples."""
    steps: Positive
    """Optimizer steps."""
    optimizer: Optimizer = Optimizer()
    """AdamW and its schedule."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of weights and activations; the optimizer keeps fp32 copies. auto: bf16 on GPUs that have it, else fp32.
    fp16 scales the loss so that small gradients survive, and skips steps that overflow."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations to compute again in the backward pass instead of keeping them.
    selective: the attention scores. full: everything but each layer's input; a third more work."""
    validation: Validation | None = None
    """Measure the loss on held-out documents while training. Unset: all documents are for training."""
    checkpoint_every_steps: Positive = 500
    """Steps between checkpoints; there is always one after the last step."""
    keep_checkpoints: Positive = 2
    """Newest checkpoints kept while training; the artifact holds the last one."""
    keep_every_steps: Positive | None = None
    """Keep the checkpoints at multiples of this too, and publish them. Unset: only the newest."""
    timeout_seconds: Annotated[float, Field(ge=5)] = 1800
    """A rank that does not move for so long is taken for hung: training ends and names it."""
    track: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Services to send the curves to, beside losses.csv and TensorBoard's files. Each is a package to install, and
    takes its address and key from its own environment variables."""
    peak_tflops: Annotated[float, Field(gt=0)] | None = None
    """Peak of one rank's device in 10^12 operations a second, against which the utilisation is given.
    Unset: the maker's figure for GPUs that are known; on others and on the CPU no utilisation is given."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: GPUs where torch sees them, else the CPU. cpu: the CPU in any case."""
