"""DeepSpeed's JSON: what a recipe makes of it, and what of a user's own file may stand beside that. No torch."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.messages import say
from easyllm.pretrain.batch import batch_plan
from easyllm.pretrain.config import PretrainConfig

OF_THE_RECIPE = (
    "optimizer", "scheduler", "amp", "torch_autocast", "pipeline", "tensor_parallel", "sequence_parallel_size",
    "curriculum_learning", "data_efficiency", "data_types", "compression_training", "progressive_layer_drop",
    "eigenvalue", "quantize_training", "zenflow", "prescale_gradients", "gradient_predivide_factor",
    "managed_gradient_accumulation", "zero_optimization.offload_optimizer",
)  # fmt: skip
"""Keys that would train something else than the recipe says, or with another optimizer: refused in a user's file."""

FREE = frozenset({
    "communication_data_type", "seq_parallel_communication_data_type", "sparse_gradients", "wall_clock_breakdown",
    "memory_breakdown", "steps_per_print", "dump_state", "comms_logger", "flops_profiler",
})  # fmt: skip
"""Keys of a user's file that change neither what is trained nor what a checkpoint means."""
FREE_OF_ZERO = frozenset({
    "reduce_scatter", "reduce_bucket_size", "allgather_partitions", "allgather_bucket_size", "overlap_comm",
    "contiguous_gradients", "round_robin_gradients", "sub_group_size", "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold", "stage3_model_persistence_threshold", "stage3_max_live_parameters",
    "stage3_max_reuse_distance", "ignore_unused_parameters",
})  # fmt: skip
"""The same below zero_optimization."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Extras:
    """What engine deepspeed has beside the section."""

    own: Json = field(default_factory=dict)
    """A user's own JSON."""
    library: Path | None = None
    """The compiled CPU Adam, where DeepSpeed's package does not have it."""

    def as_record(self, base: Path) -> Json:
        """Plain values; paths start at ``base``."""
        return {"own": self.own, "library": os.path.relpath(self.library, base) if self.library else None}

    @classmethod
    def from_record(cls, record: Json, base: Path) -> "Extras":
        """The inverse of as_record."""
        library = record["library"]
        return cls(record["own"], Path(os.path.normpath(base / library)) if library else None)


def generated(config: PretrainConfig, dtype: str) -> Json:
    """The whole JSON for a batch of full size; a batch that grows changes the accumulation as it does."""
    plan, asked = batch_plan(config), config.deepspeed
    stage: Json = {"stage": asked.zero_stage}
    if asked.offload_optimizer == "cpu":
        stage["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_batch_size": config.batch.global_samples,
        "train_micro_batch_size_per_gpu": config.batch.micro_samples,
        "gradient_accumulation_steps": plan.micro_batches,
        "gradient_clipping": config.optimizer.clip_grad,
        "zero_optimization": stage,
        "zero_allow_untested_optimizer": True,  # torch's AdamW, with two groups: matrices decay, the rest does not
        "zero_force_ds_cpu_optimizer": asked.offload_optimizer == "cpu",
        **precision(dtype),
    }


def precision(dtype: str) -> Json:
    """Half precision keeps fp32 weights and gathers gradients in fp32, as Megatron's optimizer does."""
    half = {"bfloat16": "bf16", "float16": "fp16"}
    if dtype not in half:
        return {"bf16": {"enabled": False}, "fp16": {"enabled": False}}
    return {name: {"enabled": name == half[dtype]} for name in ("bf16", "fp16")} | {
        "data_types": {"grad_accum_dtype": "fp32"}
    }


def decision(config: PretrainConfig, dtype: str, own: Json) -> list[Decision]:
    """What DeepSpeed is given, for plan and manifest; nothing under the other engine."""
    if config.engine != "deepspeed":
        return []
    whole = json.dumps(merged(generated(config, dtype), own))
    return [Decision("DeepSpeed JSON", whole, say("why_own_json", keys=len(own)) if own else say("why_deepspeed_json"))]


def read(path: Path) -> Json:
    """A user's own file; ValueError where it holds no JSON object."""
    found = json.loads(path.read_text("utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object")
    return found


def conflicts(own: Json, ours: Json, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(key, the file's value, the recipe's value) of everything in a user's file that the recipe says otherwise."""
    found: list[tuple[str, Any, Any]] = []
    for key, value in own.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and isinstance(ours.get(key), dict):
            found += conflicts(value, ours[key], f"{name}.")
        elif key in ours and value not in (ours[key], "auto"):  # auto is what such files have in transformers
            found.append((name, value, ours[key]))
        elif name in OF_THE_RECIPE and key not in ours:
            found.append((name, value, None))
    return found


def unread(own: Json, ours: Json) -> list[str]:
    """Keys of a user's file that nobody may pass on: misspelt ones, which DeepSpeed reads over in silence, and those
    that would train or save something else than is proven here."""
    top = [key for key in own if key not in FREE and key not in ours and key not in OF_THE_RECIPE]
    zero = own.get("zero_optimization")
    below = [f"zero_optimization.{key}" for key in zero if key not in FREE_OF_ZERO] if isinstance(zero, dict) else []
    known = {f"zero_optimization.{key}" for key in ours["zero_optimization"]} | set(OF_THE_RECIPE)
    return [*top, *(key for key in below if key not in known)]


def merged(ours: Json, own: Json) -> Json:
    """The file's other keys beside the recipe's."""
    result = dict(own)
    for key, value in ours.items():
        below = own.get(key)
        result[key] = merged(value, below) if isinstance(value, dict) and isinstance(below, dict) else value
    return result
