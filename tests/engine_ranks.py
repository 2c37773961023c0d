"""A rank program for the tests: one start of Megatron, many engines one after the other.

``torchrun ... --module engine_ranks JOB``: the job file says what to train and in which ways; the first rank leaves
``results.json`` beside it. Importing Megatron takes seconds, a tiny training step milliseconds.
"""

import json
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from easyllm.core.families.config import read_architecture
from easyllm.core.megatron.session import laid_out, megatron_session, rank_device
from easyllm.pretrain.architecture import architecture_of
from easyllm.pretrain.batch import batch_plan, layout_of, step_samples
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.job import Start
from easyllm.pretrain.origin import Origin, architecture_in
from easyllm.pretrain.precision import choose_dtype

SEED = 1234
LEDGER = {"tokenizer_size": 250, "eod_id": 0}
PADDED = 256
"""Rows in every layout, so that all of them are the same model."""


def run(job_file: Path) -> None:
    import torch.distributed as dist

    job = json.loads(job_file.read_text("utf-8"))
    device = rank_device("cpu")
    results, library = {}, job.get("library")
    first_layout = layout_of(PretrainConfig.model_validate(next(iter(job["scenarios"].values()))["config"]))
    with megatron_session(device, first_layout, SEED):
        from megatron.core import parallel_state

        for name, scenario in job["scenarios"].items():
            parallel_state.destroy_model_parallel()
            config = PretrainConfig.model_validate(scenario["config"])
            with laid_out(layout_of(config), SEED):
                results[name] = _train(config, scenario, device, job_file.parent, library)
        parallel_state.initialize_model_parallel()  # for the session to take down
        if dist.get_rank() == 0:
            (job_file.parent / "results.json").write_text(json.dumps(results), "utf-8")
        dist.barrier()


def _train(
    config: PretrainConfig, scenario: dict[str, Any], device: Any, folder: Path, library: str | None
) -> dict[str, Any]:
    """Losses of ``steps`` steps; ``load`` and ``save`` name checkpoints before and after, ``held_out`` evaluates."""
    from easyllm.pretrain.deepspeed_config import Extras
    from easyllm.pretrain.engine import open_engine

    dtype, _ = choose_dtype(config.precision, "cpu")
    architecture, source = _first(config, dtype)
    engine = open_engine(architecture, config, device, SEED, Extras({}, Path(library) if library else None), source)
    consumed, losses, norms, rates = 0, [], [], []
    kept: dict[int, int] = {}
    if "load" in scenario:
        consumed = engine.load(folder / scenario["load"])["consumed"]
    for _ in range(scenario["steps"]):
        samples = step_samples(config.batch, consumed)
        if scenario.get("held_out"):
            losses.append(engine.evaluate(*_batches(config, 10_000, samples)))
        with counting_kept(engine, kept) if scenario.get("measure") else nullcontext():
            result = engine.train_step(*_batches(config, consumed, samples), samples)
        losses.append(result.loss)
        norms.append(result.grad_norm)
        rates.append(result.learning_rate)
        consumed += samples
    if "save" in scenario:
        held = threading.Event()
        engine._writer._thread.submit(held.wait)  # type: ignore[attr-defined]  # nothing is written before the next step
        saving = engine.save(folder / scenario["save"], {"step": len(losses), "consumed": consumed})
        engine.train_step(*_batches(config, consumed, samples), samples)
        held.set()
        saving.finish()
    found = {"losses": losses, "norms": norms, "rates": rates, "consumed": consumed}
    if scenario.get("measure"):
        found["bytes"] = held_bytes(engine) | {"activations": sum(kept.values())}
    engine.close()
    return found


def _first(config: PretrainConfig, dtype: str) -> tuple[Any, Any]:
    """The architecture, and what the first weights are read from: a model's directory, where ``init`` names one."""
    if config.init is None:
        return replace(architecture_of(config, LEDGER, dtype), padded_vocabulary=PADDED), None
    from easyllm.pretrain.start_weights import weights_of

    directory = Path(config.init)
    origin = Origin(config.init, directory, read_architecture(directory, "pretrain", "pretrain.init"))
    architecture = architecture_in(config, origin, LEDGER, dtype)
    return architecture, weights_of(Start(directory), architecture, SEED)


def counting_kept(engine: Any, kept: dict[int, int]) -> Any:
    """Counts the memory behind all that autograd keeps for the backward pass, by address, weights apart."""
    import torch

    weights = {weight.untyped_storage().data_ptr() for chunk in engine.chunks for weight in chunk.parameters()}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)


def held_bytes(engine: Any) -> dict[str, int]:
    """Of engine megatron on this rank, after a step: bytes of the memory behind its tensors, each counted once."""
    import torch

    weights = [weight for chunk in engine.chunks for weight in chunk.parameters()]
    buffers = [b for ddp in engine._ddp for b in [*ddp.buffers, *ddp.expert_parallel_buffers]]
    optimizers = getattr(engine._optimizer, "chained_optimizers", [engine._optimizer])
    inner = [optimizer.optimizer for optimizer in optimizers]
    masters = [weight for each in inner for group in each.param_groups for weight in group["params"]]
    states = [value for each in inner for state in each.state.values() for value in state.values()]
    parts = {"weights": weights, "gradients": [b.grad_data for b in buffers], "optimizer": [*masters, *states]}
    seen: set[int] = set()
    found = dict.fromkeys(parts, 0)
    for name, tensors in parts.items():
        for tensor in tensors:
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                found[name] += storage.nbytes()
    return found


def _batches(config: PretrainConfig, first: int, samples: int) -> Any:
    """Sample n is the same everywhere: an arithmetic sequence that a model can learn."""
    import torch
    from megatron.core import parallel_state

    plan, micro, length = batch_plan(config), config.batch.micro_samples, config.sequence_tokens
    rank, count = parallel_state.get_data_parallel_rank(), samples // plan.unit

    def batches() -> Any:
        for index in range(count):
            at = first + (index * plan.data_parallel + rank) * micro
            rows = torch.stack([(torch.arange(length + 1) * (1 + n % 3) + n * 7) % 250 for n in range(at, at + micro)])
            yield {
                "tokens": rows[:, :-1], "labels": rows[:, 1:], "loss_mask": torch.ones(micro, length),
                "position_ids": torch.arange(length).repeat(micro, 1),
            }  # fmt: skip

    return batches, count


if __name__ == "__main__":
    run(Path(sys.argv[1]))
