"""TRL's trainers, fed with our own token ids and our own reference.

What each of them does by itself and must not do here is taken away in one place, ``_Ours``:

* it would tokenise text again: rows come with their ids (trl/trainer/dpo_trainer.py, ``_prepare_dataset``);
* it would compute the reference by a second adapter or a second model: the log-probabilities of the model as it
  began come as columns, the same for a fresh adapter, an adapter that is trained on, and a full model;
* its rate of a step is that of the step before, so a warm-up begins with a step of nothing: here it is finetune's;
* it averages over micro batches of unlike size as if they were alike: here every row of a step weighs the same;
* its checkpoints grow in place under their last name, and a cut one is taken for whole: here they are renamed;
* it writes a model card into every checkpoint.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainerCallback, get_scheduler
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer

from easyllm.align.encoding import Encoded
from easyllm.align.measure import Measured
from easyllm.core.artifact import sync_tree

_PREFIX, _HALF = "checkpoint-", ".half"


class _Ours:
    """What all three trainers are told to do our way; stands before TRL's class."""

    _half: Path | None = None
    _rows_of_step: tuple[int, int] = (1, 1)
    args: Any
    state: Any
    optimizer: Any
    lr_scheduler: Any

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def tokenize_row(self, feature: Any, model: Any = None) -> Any:
        return feature

    def create_model_card(self, *_: Any, **__: Any) -> None:
        return None

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The library's curve, read a step later and drawn to the step after the last: no step has rate 0."""
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            warmup = self.args.get_warmup_steps(num_training_steps)
            curve = get_scheduler(self.args.lr_scheduler_type, optimizer, warmup, num_training_steps + 1).lr_lambdas[0]
            self.lr_scheduler = LambdaLR(optimizer, lambda done: curve(done + 1))
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]  # TRL's class stands behind
        self._rows_of_step = (sum(_rows(batch) for batch in samples), len(samples))
        return samples, items

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]  # as above
        rows, batches = self._rows_of_step
        return loss * (_rows(inputs) * batches / rows)  # the trainer divides by the number of micro batches

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._half) if self._half else str(self.args.output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The state beside, fsynced, then renamed: a kill leaves the old state or the new."""
        folder = Path(self.args.output_dir)
        name = f"{_PREFIX}{self.state.global_step}"
        self._half = folder / _HALF
        shutil.rmtree(self._half, ignore_errors=True)
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]  # as above
        finally:
            half, self._half = self._half, None
        sync_tree(half)
        shutil.rmtree(folder / name, ignore_errors=True)
        os.rename(half / name, folder / name)
        sync_tree(folder / name)
        for other in folder.glob(f"{_PREFIX}*"):
            if other.name != name:
                shutil.rmtree(other)


def newest(folder: Path) -> str | None:
    """The newest whole state in ``folder``; one that a kill left half written does not carry its name."""
    found = sorted(folder.glob(f"{_PREFIX}*"), key=lambda path: int(path.name.removeprefix(_PREFIX)))
    return str(found[-1]) if found else None


class _Dpo(_Ours, DPOTrainer):
    pass


class _Kto(_Ours, KTOTrainer):
    pass


def _rows(batch: Any) -> int:
    """Rows of a micro batch, whichever objective laid it out."""
    if "prompt_input_ids" in batch:
        return len(batch["prompt_input_ids"])
    rows = len(batch["input_ids"])
    return rows if "label" in batch else rows // 2  # of dpo: the chosen answers, then the rejected


def dpo_rows(rows: Sequence[Encoded], reference: Measured) -> Dataset:
    """As DataCollatorForPreference takes them."""
    return as_dataset([
        {
            "prompt_ids": row.prompt, "chosen_ids": row.chosen, "rejected_ids": row.rejected,
            "ref_chosen_logps": ref[True], "ref_rejected_logps": ref[False],
        }
        for row, ref in zip(rows, reference, strict=True)
    ])  # fmt: skip


def orpo_rows(rows: Sequence[Encoded]) -> Dataset:
    """As DPODataCollatorWithPadding takes them; the trainer looks for texts, and does nothing with them."""
    made = []
    for row in rows:
        entry: dict[str, Any] = {"prompt": "", "chosen": "", "rejected": ""}
        entry |= {"prompt_input_ids": row.prompt, "prompt_attention_mask": [1] * len(row.prompt)}
        for name, answer in (("chosen", row.chosen), ("rejected", row.rejected)):
            assert answer is not None  # the reader refuses single answers for orpo
            ids = [*row.prompt, *answer]
            entry |= {f"{name}_input_ids": ids, f"{name}_attention_mask": [1] * len(ids)}
            entry[f"{name}_labels"] = [-100] * len(row.prompt) + answer
        made.append(entry)
    return as_dataset(made)


KtoRow = dict[str, Any]


def kto_rows(rows: Sequence[Encoded], reference: Measured, micro_samples: int, seed: int) -> list[KtoRow]:
    """Single answers in the order they are seen; with each, another answer of its micro batch to estimate the KL by."""
    made: list[KtoRow] = []
    for row, ref in zip(rows, reference, strict=True):
        for ids, good in row.answers():
            made.append({"prompt_ids": row.prompt, "completion_ids": ids, "label": good, "ref_logps": ref[good]})
    draw = torch.Generator().manual_seed(seed)
    made = [made[at] for at in torch.randperm(len(made), generator=draw).tolist()]
    for start in range(0, len(made), micro_samples):
        chunk = made[start : start + micro_samples]
        for entry, other in zip(chunk, [chunk[-1], *chunk[:-1]], strict=True):
            entry["KL_completion_ids"] = other["completion_ids"]
    return made


def as_dataset(rows: Sequence[dict[str, Any]]) -> Dataset:
    return Dataset.from_list(list(rows))


def quiet(trainer: Any) -> None:
    """The trainer prints every log to stdout unless told otherwise; ours is the bar."""
    trainer.remove_callback(PrinterCallback)


def classes(objective: str) -> tuple[Any, Any]:
    """(trainer, config) of ``objective``. ORPO stands among TRL's experiments, and is imported where it is asked."""
    if objective == "dpo":
        return _Dpo, DPOConfig
    if objective == "kto":
        return _Kto, KTOConfig
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # else a warning that nobody can act on
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return type("_Orpo", (_Ours, ORPOTrainer), {}), ORPOConfig


def make(
    objective: str, model: Any, rows: Dataset, tokenizer: Any, callbacks: list[TrainerCallback], **asked: Any
) -> Any:
    """The trainer of ``objective`` on ``model``; ``asked`` are keys of its TRL config."""
    trainer_class, config_class = classes(objective)
    own = {"precompute_ref_log_probs": True} if objective != "orpo" else {"max_completion_length": None}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    args = config_class(**asked, **own, max_length=None if objective != "orpo" else 1 << 30)
    trainer = trainer_class(model=model, args=args, train_dataset=rows, processing_class=tokenizer, callbacks=callbacks)
    if "ref" in getattr(model, "peft_config", {}):
        model.delete_adapter("ref")  # the reference comes as columns
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
        if name in trained:
            parameter.data = parameter.data.float()  # TRL casts adapters of quantised models to bf16: steps get lost
    return trainer
