"""Which layers get an adapter: asked of the model itself, on the meta device, before any weight is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from easyllm.core.artifact import Decision
from easyllm.core.errors import UserError
from easyllm.core.messages import say
from easyllm.core.tuning.layers import covered_problems, hit, inside, last_names, save_problems, target_problems


@dataclass(frozen=True)
class Targets:
    """The layers of one model that an adapter stands on."""

    names: list[str]
    """What PEFT is given: last names, or full paths."""
    paths: list[str]
    """Every layer they stand for, from the first block to the last."""
    left: list[str]
    """Experts that are stored as one tensor of three dimensions: LoRA's pair of matrices stands on none of them."""
    decision: Decision

    def as_record(self) -> dict[str, Any]:
        return {"names": self.names, "layers": len(self.paths), "paths": self.paths, "left": self.left}


def meta_model(directory: Path, vocabulary: int | None = None) -> Any:
    """The model of ``directory`` without its weights: every layer in its place, no memory.

    With at least ``vocabulary`` rows of embeddings.
    """
    config = AutoConfig.from_pretrained(str(directory), local_files_only=True)
    text = config.get_text_config()
    text.vocab_size = max(text.vocab_size, vocabulary or 0)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def linear_layers(directory: Path) -> list[str]:
    """Paths of every linear layer of the model in ``directory`` but its output head."""
    return _linear(meta_model(directory))


def choose(directory: Path, asked: str | list[str], saved: list[str] | None = None, stage: str = "finetune") -> Targets:
    """The layers that ``asked`` means: auto, names, or a regular expression that matches whole paths.

    ``saved`` are layers that are trained whole; no adapter stands on them.
    Raises UserError TARGET-001 to TARGET-004 and TARGET-006.
    """
    model = meta_model(directory)
    linear, saved = _linear(model), saved or []
    problems = [] if asked == "auto" else target_problems(asked, linear, stage)
    problems += save_problems(saved, [name for name, _ in model.named_modules()], stage)
    problems = problems or covered_problems(asked, saved, linear, stage)
    if problems:
        raise UserError(*problems)
    left = _stacked(model)
    free = [path for path in linear if not inside(path, saved)]
    if asked == "auto":
        names = last_names(free) if not saved else free
        why = say("why_auto_targets_left", left=", ".join(left)) if left else say("why_auto_targets")
        return Targets(names, free, left, Decision("targets", last_names(free), why))
    paths = hit(asked, free)
    names = paths if isinstance(asked, str) or saved else list(asked)
    return Targets(names, paths, left, Decision("targets", asked, say("why_in_recipe")))


def _linear(model: Any) -> list[str]:
    head: Any = model.get_output_embeddings()
    kinds = (torch.nn.Linear, Conv1D)  # GPT-2's layers are Conv1D: a linear layer stored transposed
    return [name for name, module in model.named_modules() if isinstance(module, kinds) and module is not head]


def _stacked(model: Any) -> list[str]:
    """Last two names of the weights that hold all experts of a layer: mlp.experts.gate_up_proj is one."""
    names = (name for name, weight in model.named_parameters() if weight.dim() == 3)
    return list(dict.fromkeys(".".join(name.split(".")[-2:]) for name in names))
