"""Which layers get an adapter: asked of the model itself, on the meta device, before any weight is read."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from easyllm.core.artifact import Decision
from easyllm.core.errors import UserError
from easyllm.core.messages import say
from easyllm.core.tuning.layers import last_names, target_problems, unknown_targets


def linear_layers(directory: Path) -> list[str]:
    """Paths of every linear layer of the model in ``directory`` but its output head."""
    config = AutoConfig.from_pretrained(str(directory), local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head: Any = model.get_output_embeddings()
    kinds = (torch.nn.Linear, Conv1D)  # GPT-2's layers are Conv1D: a linear layer stored transposed
    return [name for name, module in model.named_modules() if isinstance(module, kinds) and module is not head]


def choose(directory: Path, asked: str | list[str]) -> tuple[list[str], list[str], Decision]:
    """(target names, paths they adapt, the decision). Raises UserError TARGET-001."""
    linear = linear_layers(directory)
    if asked == "auto":
        names = last_names(linear)
        return names, linear, Decision("targets", names, say("why_auto_targets"))
    asked = [asked] if isinstance(asked, str) else asked
    problems = target_problems(asked, linear)
    if problems:
        raise UserError(*problems)
    paths = [path for path in linear if len(unknown_targets(asked, [path])) < len(asked)]
    return list(asked), paths, Decision("targets", list(asked), say("why_in_recipe"))
