"""What a recipe's pretraining costs, for its plan: memory per rank by part, work, time; and the layouts that fit."""

import importlib.util
from dataclasses import replace
from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.messages import say
from easyllm.core.sizes import human_bytes
from easyllm.pretrain.batch import batch_plan, layout_of
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.estimate import Training, flops_per_token, memory
from easyllm.pretrain.fitting import Fits, layouts_that_fit

PROCESS_BYTES = 450_000_000
"""What Python, torch and Megatron take in each rank before there is a model (measured resident set)."""


def training_of(config: PretrainConfig) -> Training:
    """The recipe's own way to train, for the estimate."""
    batch = batch_plan(config)
    return Training(
        layout=layout_of(config),
        data=batch.data_parallel,
        micro_batches=batch.micro_batches,
        micro_samples=config.batch.micro_samples,
        sequence_tokens=config.sequence_tokens,
        recompute=config.recompute,
        fused=config.device != "cpu" and importlib.util.find_spec("transformer_engine") is not None,
        distributed_optimizer=config.optimizer.distributed,
        zero=config.deepspeed.zero_stage if config.engine == "deepspeed" else None,
        offload_optimizer=config.deepspeed.offload_optimizer == "cpu",
    )


def figures(config: PretrainConfig, a: Architecture) -> dict[str, Any]:
    """By name with unit; without the vocabulary's part where ``a`` does not know it yet."""
    part = memory(a, training_of(config))
    return {
        "weights per rank, bytes": part.weights,
        "gradients per rank, bytes": part.gradients,
        "optimizer per rank, bytes": part.optimizer,
        "activations per rank, bytes": part.activations,
        "FLOPs per step": flops_per_step(config, a),
    }


def flops_per_step(config: PretrainConfig, a: Architecture) -> int:
    """Of the whole batch over all ranks."""
    return flops_per_token(a, config.sequence_tokens) * config.batch.global_samples * config.sequence_tokens


def memory_bytes(config: PretrainConfig, a: Architecture) -> int:
    """Estimated peak over all ranks on the CPU: the fullest rank's parts and its process, times the ranks."""
    part = memory(a, training_of(config))
    return config.ranks * (PROCESS_BYTES + part.total + part.host)


def decisions(config: PretrainConfig, a: Architecture) -> list[Decision]:
    """Where the figures come from and what they leave out."""
    part = memory(a, training_of(config))
    found = [
        Decision("memory per rank", human_bytes(part.total), say("why_memory", layers=_layers(config))),
        Decision("work", f"{flops_per_step(config, a):.4g} FLOPs", say("why_work")),
    ]
    if config.peak_tflops is None:
        return [*found, Decision("time", say("not_given"), say("why_no_time"))]
    least = flops_per_step(config, a) / (config.ranks * config.peak_tflops * 1e12)
    why = say("why_time", peak=config.peak_tflops, ranks=config.ranks, hours=least * config.steps / 3600)
    return [*found, Decision("time", say("at_least_seconds", seconds=least), why)]


def _layers(config: PretrainConfig) -> str:
    return say("layers_fused" if training_of(config).fused else "layers_of_torch")


def fits(config: PretrainConfig, a: Architecture, gpus: int, bytes_per_gpu: int) -> Fits:
    """The layouts of this training that fit ``gpus`` GPUs; 16 bit where the recipe leaves precision to the GPU."""
    if config.precision == "auto":
        a = replace(a, dtype="bfloat16")
    assumed = say(
        "layouts_assume", dtype=a.dtype, micro=config.batch.micro_samples, samples=config.batch.global_samples,
        layers=_layers(config),
    )  # fmt: skip
    if not a.tokenizer_size:
        assumed += say("layouts_no_vocabulary")
    found = layouts_that_fit(a, training_of(config), gpus, bytes_per_gpu, config.batch.global_samples)
    return Fits(found, gpus, bytes_per_gpu, assumed)
