"""Instruction rows and a model become an adapter or a model."""

from typing import Any

import torch

from easyllm.core.artifact import Decision
from easyllm.core.batches import padding_id
from easyllm.core.chat import seal, turn_end_id
from easyllm.core.models import choose_dtype, local_model, quiet_libraries
from easyllm.core.stage import Job, Result
from easyllm.finetune import packing, product
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.curve import write_curve
from easyllm.finetune.method import Tuned, build
from easyllm.finetune.order import order
from easyllm.finetune.rows import Rows, prepare
from easyllm.finetune.training import Row, Training

MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


def run(job: Job[FinetuneConfig]) -> Result:
    """A directory that stock PEFT or transformers loads, with tokenizer, sealed template, loss curve and audit."""
    quiet_libraries()
    directory = local_model(job.inputs["base"], job.cache_dir, job.stage)
    rows = prepare(job, directory)
    dtype, why = choose_dtype(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    tuned = build(job.config, directory, dtype, job.seed, len(rows.tokenizer))
    lengths = [len(example.ids) for example in rows.train]
    steps = order(lengths, job.config.batch.global_samples, job.config.epochs, job.seed)
    filler = padding_id(rows.tokenizer)
    layout = packing.choose(tuned.model, rows.train, job.config.packing, filler, job.stage)
    training = Training(tuned.model, rows.train, steps, job.config, layout, job.out / ".state", MIXED[dtype])
    curve, seconds = training.run()

    write_curve(curve, job.out)
    product.write(job.out, tuned, rows)
    return Result(
        kind=tuned.kind,
        metrics=_metrics(curve, rows, tuned) | {"training_seconds": round(seconds, 1)},
        decisions=[
            *tuned.decisions,
            layout.decision,
            Decision("dtype", str(dtype).removeprefix("torch."), why),
            *rows.decisions,
        ],
        records=_records(job, tuned, rows),
    )


def _metrics(curve: list[Row], rows: Rows, tuned: Tuned) -> dict[str, Any]:
    return {
        "steps": len(curve),
        "first_loss": curve[0].loss,
        "last_loss": curve[-1].loss,
        "rows": rows.audit.rows,
        "rows_same": rows.same,
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
