"""Instruction rows and a model become an adapter."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from easyllm.core.artifact import Decision, write_whole
from easyllm.core.chat import ensure_template, load_tokenizer, seal, turn_end_id
from easyllm.core.conversations import Conversation, read_conversations
from easyllm.core.errors import StageFailed, refuse
from easyllm.core.examples import Example, encode, padding_id
from easyllm.core.messages import say
from easyllm.core.models import choose_dtype, load_model, local_model, quiet_libraries
from easyllm.core.progress import note
from easyllm.core.stage import Job, Result
from easyllm.finetune import targets
from easyllm.finetune.audit import Audit, audit, fitting
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.curve import write_curve
from easyllm.finetune.order import Step, order
from easyllm.finetune.split import split
from easyllm.finetune.training import Row, Training

MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


def run(job: Job[FinetuneConfig]) -> Result:
    """An adapter directory that stock PEFT loads, with tokenizer, sealed template, loss curve and label audit."""
    quiet_libraries()
    directory = local_model(job.inputs["base"], job.cache_dir, job.stage)
    names, paths, target_decision = targets.choose(directory, job.config.lora.targets)
    tokenizer, template_decision = _tokenizer(directory, job.stage)
    rows = list(read_conversations(job.inputs["data"].files, job.stage))
    parts = split(rows, job.config.validation_rows, job.seed, job.inputs["data"].files)
    examples, counted = _examples(job, tokenizer, parts.train)

    dtype, why = choose_dtype(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(job.seed)
    model = _with_adapter(load_model(directory, dtype), job.config, names, len(paths))
    training = Training(
        model,
        examples,
        _steps(job, examples),
        job.config,
        padding_id(tokenizer),
        job.out / ".state",
        MIXED[dtype],
    )
    curve, seconds = training.run()

    write_curve(curve, job.out)
    _write(job.out, model, tokenizer, counted, parts.held_out)
    return Result(
        kind="adapter",
        metrics=_metrics(curve, counted, parts.same, model) | {"training_seconds": round(seconds, 1)},
        decisions=[
            target_decision,
            parts.decision,
            Decision("dtype", str(dtype).removeprefix("torch."), why),
            *template_decision,
        ],
        records=_records(job, tokenizer, names, paths, len(parts.held_out)),
    )


def _tokenizer(directory: Path, stage: str) -> tuple[Any, list[Decision]]:
    tokenizer = load_tokenizer(directory)
    try:
        decision = ensure_template(tokenizer)
    except ValueError as error:
        raise refuse("TEMPLATE-004", stage=stage, key="finetune.base") from error
    return tokenizer, [decision] if decision else []


def _examples(job: Job[FinetuneConfig], tokenizer: Any, rows: list[Conversation]) -> tuple[list[Example], Audit]:
    encoded = encode(tokenizer, rows, job.stage)
    fit, over = fitting(encoded, job.config.sequence_tokens, job.config.too_long)
    end = turn_end_id(tokenizer)
    assert end is not None  # encode has refused such a template
    counted = audit(fit, over, end)
    figures = {"rows": counted.rows, "tokens": counted.tokens, "labels": counted.label_tokens, "share": counted.share}
    note(say("label_audit", longest=counted.longest_tokens, over=len(over), **figures))
    return fit, counted


def _with_adapter(model: Any, config: FinetuneConfig, names: list[str], layers: int) -> Any:
    """The model with its adapter, fresh; nothing else requires a gradient."""
    lora = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=names,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, lora)
    found = sum(name.endswith("lora_A.default") for name, _ in adapted.named_modules())
    if found != layers:
        raise StageFailed(f"finetune: {layers} layers were chosen, and the adapter stands on {found}: {names}")
    return adapted


def _steps(job: Job[FinetuneConfig], examples: list[Example]) -> list[Step]:
    batch = job.config.batch
    lengths = [len(example.ids) for example in examples]
    return order(lengths, batch.global_samples, batch.micro_samples, job.config.epochs, job.seed)


def _write(out: Path, model: Any, tokenizer: Any, counted: Audit, held_out: list[Conversation]) -> None:
    """The adapter as PEFT writes it, and what belongs with it."""
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # peft's empty model card
    (out / "adapter_model.safetensors").chmod(0o644)  # safetensors writes for the owner alone
    config = json.loads((out / "adapter_config.json").read_text("utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # peft writes a set, in another order each time
    write_whole(out / "adapter_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    tokenizer.save_pretrained(out)
    write_whole(out / "label_audit.json", json.dumps(counted.as_record(), indent=2, ensure_ascii=False) + "\n")
    if held_out:
        lines = [json.dumps({"messages": row.messages}, ensure_ascii=False) + "\n" for row in held_out]
        write_whole(out / "held_out.jsonl", "".join(lines))


def _metrics(curve: list[Row], counted: Audit, same: int, model: Any) -> dict[str, Any]:
    return {
        "steps": len(curve),
        "first_loss": curve[0].loss,
        "last_loss": curve[-1].loss,
        "rows": counted.rows,
        "rows_same": same,
        "rows_dropped": len(counted.dropped),
        "label_tokens": counted.label_tokens,
        "label_share": round(counted.share, 4),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _records(
    job: Job[FinetuneConfig], tokenizer: Any, names: list[str], paths: list[str], held_out: int
) -> dict[str, Any]:
    base = job.inputs["base"]
    path = str(base.path.absolute()) if base.path else None
    return {
        "base": {"ref": base.ref, "path": path, "digest": base.digest},
        "template": seal(tokenizer) | {"turn_end_id": turn_end_id(tokenizer)},
        "targets": {"names": names, "layers": len(paths)},
        "held_out": {"path": "held_out.jsonl" if held_out else None, "rows": held_out},
    }
