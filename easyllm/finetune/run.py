"""Instruction rows and a model become an adapter or a model."""

from pathlib import Path
from typing import Any

from easyllm.core.batches import padding_id
from easyllm.core.chat import seal, turn_end_id
from easyllm.core.deepspeed_ops import prebuild
from easyllm.core.errors import UserError, refuse
from easyllm.core.models import local_model, quiet_libraries
from easyllm.core.nodes.checks import outside_mount
from easyllm.core.nodes.launch import elsewhere
from easyllm.core.stage import Job, Result
from easyllm.core.tuning.building import Tuned
from easyllm.finetune import product
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.curve import write_curve
from easyllm.finetune.handover import at_work
from easyllm.finetune.launch import train
from easyllm.finetune.nodes import launch_of
from easyllm.finetune.order import order, rows_in_all
from easyllm.finetune.precision import choose, device_kind
from easyllm.finetune.rows import Rows, prepare
from easyllm.finetune.training import Row
from easyllm.finetune.work import Work


def run(job: Job[FinetuneConfig]) -> Result:
    """A directory that stock PEFT or transformers loads, with tokenizer, sealed template, loss curve and audit."""
    quiet_libraries()
    waiting = at_work(job)
    if waiting:
        raise waiting
    directory = local_model(job.inputs["base"], job.cache_dir, job.stage)
    wrong = outside_mount(launch_of(job), [directory])
    if wrong:
        raise UserError(*wrong)  # it may have been brought here only now
    rows = prepare(job, directory)
    product.write_audit(job.out, rows)
    device = device_kind(job.config, sent=elsewhere(job))
    dtype = choose(job.config, device, sent=elsewhere(job))
    trained = train(job, _work(job, directory, rows, device, dtype.value))
    tuned, curve = trained.tuned, trained.rows

    write_curve(curve, job.out)
    product.write(job.out, tuned, rows)
    metrics = _metrics(curve, rows, tuned, job.config.validation.keep_best)
    return Result(
        kind=tuned.kind,
        metrics=metrics | {"training_seconds": round(trained.seconds, 1)},
        decisions=[
            *tuned.decisions,
            *trained.decisions,
            dtype,
            *rows.decisions,
        ],
        records=_records(job, tuned, rows),
    )


def _work(job: Job[FinetuneConfig], directory: Path, rows: Rows, device: str, dtype: str) -> Work:
    config = job.config
    lengths = [len(example.ids) for example in rows.train]
    shares = [example.source.share for example in rows.train]
    if not rows_in_all(shares, config.epochs):  # a row that was too long may have been the one to be drawn
        raise refuse("DATA-007", stage=job.stage, key="finetune.data", rows=len(shares), epochs=config.epochs)
    steps = order(lengths, config.batch.global_samples, config.epochs, job.seed, shares, config.max_steps)
    cpu_adam = config.engine == "deepspeed" and config.deepspeed.offload_optimizer == "cpu"
    return Work(
        config=config, directory=directory, seed=job.seed, device=device, dtype=dtype, tokens=len(rows.tokenizer),
        pad_id=padding_id(rows.tokenizer), train=rows.train, held_out=rows.held_out, steps=steps,
        state=job.out / ".state", library=prebuild(job.cache_dir, device, job.stage) if cpu_adam else None,
        interface=job.cluster.interface if job.cluster else None,
    )  # fmt: skip


def _metrics(curve: list[Row], rows: Rows, tuned: Tuned, keep_best: bool) -> dict[str, Any]:
    """``held_out_loss`` is that of the weights that are published."""
    measured = [row.held_out_loss for row in curve if row.held_out_loss is not None]
    best = min(measured, default=None)
    return {
        "steps": len(curve),
        "first_loss": curve[0].loss,
        "last_loss": curve[-1].loss,
        **({"held_out_loss": best if keep_best else measured[-1], "best_held_out_loss": best} if measured else {}),
        "rows": rows.audit.rows,
        "rows_same": rows.audit.rows_same,
        "rows_dropped": len(rows.audit.dropped),
        "label_tokens": rows.audit.label_tokens,
        "label_share": round(rows.audit.share, 4),
        "trained_parameters": sum(p.numel() for p in tuned.model.parameters() if p.requires_grad),
    }


def _records(job: Job[FinetuneConfig], tuned: Tuned, rows: Rows) -> dict[str, Any]:
    base = job.inputs["base"]
    path = str(base.path.absolute()) if base.path else None
    return {
        "base": {"ref": base.ref, "path": path, "digest": base.digest},
        "template": seal(rows.tokenizer) | {"turn_end_id": turn_end_id(rows.tokenizer)},
        "held_out": {"path": "held_out.jsonl" if rows.held_out else None, "rows": len(rows.held_out)},
        **tuned.records,
    }
