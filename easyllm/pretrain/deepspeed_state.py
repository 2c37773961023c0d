"""Weights and optimizer state of DeepSpeed's engines, whole, one parameter after the other, for any ZeRO stage.

DeepSpeed's own checkpoints hold each rank's piece of a flat buffer: another number of ranks or another stage cannot
read them. Here every value is gathered to the parameter's own shape, and Megatron's distributed checkpoints, which
any layout reads, carry it: as engine megatron's do.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.zero import GatheredParameters
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.dist_checkpointing.optimizer import make_sharded_optimizer_tensor

MASTER, MOMENTS = "fp32_param", ("exp_avg", "exp_avg_sq")
"""As Megatron's own optimizers name them in a checkpoint."""
BUCKET_BYTES = 1 << 30
"""Values read from a checkpoint at a time: a rank never holds more than that of what belongs to others."""


class WholeState:
    """The state of one engine by parameter.

    Made in two steps, for ZeRO 3 leaves nothing of a parameter's shape: before ``deepspeed.initialize`` (here) and
    after it (``of``).
    """

    def __init__(self, model: torch.nn.Module, sharded: dict[str, Any]) -> None:
        """``sharded`` is the model's ``sharded_state_dict``: it says where each parameter stands in the whole."""
        places = {id(place.data): (name, place) for name, place in sharded.items()}
        self._others = {name: place for name, place in sharded.items() if isinstance(place, ShardedObject)}
        self._rows = [
            (parameter, *places[id(parameter)], tuple(parameter.shape), parameter.dtype)
            for parameter in model.parameters()
        ]
        self._optimizer: Any = None

    def of(self, optimizer: Any) -> "WholeState":
        """With what ``deepspeed.initialize`` gave as its optimizer."""
        self._optimizer = optimizer
        self._prime(0)  # or a run whose steps have all overflowed so far could not be saved
        return self

    def collect(self) -> dict[str, Any]:
        """The state as shards for a checkpoint. All ranks call it; each keeps what it will write: its share."""
        copies, own = parallel_state.get_data_parallel_world_size(), parallel_state.get_data_parallel_rank()
        state: dict[str, Any] = {"model": dict(self._others), "optimizer": {}}
        self._link()
        for index, (parameter, name, place, shape, dtype) in enumerate(self._rows):
            mine = index % copies == own
            place = _owned(place)
            for key in (None, *MOMENTS):
                value = self._whole(parameter, key).detach()  # a collective: everyone takes part
                if not mine:
                    continue
                value = value.reshape(shape).to("cpu", torch.float32, copy=True)
                if key is None:
                    state["model"][name] = replace(place, data=value.to(dtype))
                if key is not None or dtype != torch.float32:  # in fp32 the weights are their own copy
                    state["optimizer"][f"{name}.{key or MASTER}"] = _moment(place, value, key or MASTER)
        return state

    def restore(self, load: Callable[[dict[str, Any]], dict[str, Any]], step: int) -> None:
        """Put back what ``load`` gives for the shards that it is asked for, and the count of updates."""
        self._prime(step)
        for bucket in _buckets(self._rows):
            found = load({"asked": dict(_asked(bucket))})["asked"]
            for parameter, name, _, _, _ in bucket:
                for key in MOMENTS:
                    self._put(parameter, found[f"{name}.{key}"], key)
                self._put(parameter, found[f"{name}.{MASTER}"], None)
                self._put_weights(parameter, found[f"{name}.{MASTER}"])

    def updates(self) -> int:
        """How often the optimizer has changed the weights."""
        inner = _inner(self._optimizer)
        return max((int(state["step"]) for state in inner.state.values() if "step" in state), default=0)

    def _whole(self, parameter: Any, key: str | None) -> torch.Tensor:
        if not _partitioned(parameter):
            return parameter if key is None else _inner(self._optimizer).state[parameter][key]  # type: ignore[no-any-return]
        found = safe_get_full_fp32_param(parameter) if key is None else safe_get_full_optimizer_state(parameter, key)
        return found  # type: ignore[no-any-return]

    def _put(self, parameter: Any, value: torch.Tensor, key: str | None) -> None:
        if not _partitioned(parameter):
            if key is not None:
                _inner(self._optimizer).state[parameter][key].copy_(value)
        elif hasattr(parameter, "ds_id"):  # ZeRO 3: by this rank's own piece, for the last one may be padded
            piece = _own_piece(parameter, value)
            if key is None:
                safe_set_local_fp32_param(parameter, piece)
            else:
                safe_set_local_optimizer_state(parameter, piece, key)
        elif key is None:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, key)

    def _put_weights(self, parameter: Any, value: torch.Tensor) -> None:
        """What the forward pass reads."""
        with torch.no_grad():
            if hasattr(parameter, "ds_id"):
                with GatheredParameters([parameter], modifier_rank=0):
                    parameter.copy_(value)
            else:
                parameter.copy_(value)

    def _prime(self, step: int) -> None:
        """Give a fresh optimizer its moments: they come with the first step only, and are set here before it."""
        inner = _inner(self._optimizer)
        for weight in _flat_weights(self._optimizer):
            # torch counts in a tensor, DeepSpeed's CPU Adam in an int.
            count: Any = torch.tensor(float(step)) if isinstance(inner, torch.optim.AdamW) else step
            inner.state[weight] = {"step": count, **{key: torch.zeros_like(weight) for key in MOMENTS}}
        self._link()

    def _link(self) -> None:
        """Let every parameter find its moments.

        DeepSpeed 0.19.8 does it once, after the step of the first group, when the others have none yet
        (``_optimizer_step`` in runtime/zero/stage_1_and_2.py).
        """
        if hasattr(self._optimizer, "_hp_optimizer_states_linked"):
            self._optimizer._hp_optimizer_states_linked = False
            self._optimizer._lazy_init_hp_params_optimizer_state()


def _partitioned(parameter: Any) -> bool:
    """Whether DeepSpeed keeps the fp32 values elsewhere: always but for ZeRO 0 in fp32."""
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def _inner(optimizer: Any) -> Any:
    """The Adam inside DeepSpeed's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


def _flat_weights(optimizer: Any) -> Iterable[torch.Tensor]:
    """The tensors that Adam itself sees: flat fp32 pieces under ZeRO, else the parameters."""
    flat = getattr(optimizer, "fp32_partitioned_groups_flat", None)  # ZeRO 3: more pieces than groups
    if flat is not None:
        return flat  # type: ignore[no-any-return]
    return [weight for group in _inner(optimizer).param_groups for weight in group["params"]]


def _own_piece(parameter: Any, value: torch.Tensor) -> torch.Tensor:
    """This rank's piece of a ZeRO 3 parameter, padded as DeepSpeed pads it."""
    size, rank = parameter.ds_tensor.numel(), dist.get_rank(parameter.ds_process_group)
    ranks = dist.get_world_size(parameter.ds_process_group)
    padded = torch.nn.functional.pad(value.flatten(), (0, size * ranks - value.numel()))
    return padded.narrow(0, size * rank, size)


def _owned(place: Any) -> Any:
    """The place of a value that this rank writes for all its data parallel copies."""
    replica = place.replica_id
    return replace(place, replica_id=(*replica[:-1], 0) if isinstance(replica, tuple) else 0)


def _asked(bucket: list[Any]) -> Iterator[tuple[str, Any]]:
    """What to load, by the parameter's name and the kind of value."""
    for _, name, place, shape, dtype in bucket:
        for key in (MASTER, *MOMENTS):
            own_copy = key == MASTER and dtype == torch.float32
            value = torch.empty(shape)
            yield f"{name}.{key}", replace(place, data=value) if own_copy else _moment(place, value, key)


def _moment(place: Any, value: torch.Tensor, key: str) -> Any:
    return make_sharded_optimizer_tensor(place, value, f"optimizer.state.{key}")


def _buckets(rows: list[Any]) -> Iterator[list[Any]]:
    """The rows in order, as many at a time as fit ``BUCKET_BYTES``; every rank cuts at the same places."""
    bucket: list[Any] = []
    size = 0
    for row in rows:
        needs = 4 * (1 + len(MOMENTS)) * torch.Size(row[3]).numel()
        if bucket and size + needs > BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append(row)
        size += needs
    if bucket:
        yield bucket
