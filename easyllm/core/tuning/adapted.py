"""A base with its adapter on it, as it was when the adapter was trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easyllm.core.tuning.quantised import load_base
from easyllm.core.tuning.vocabulary import grow

if TYPE_CHECKING:
    import torch


def load_adapted(
    adapter: Path, records: Mapping[str, Any], directory: Path, dtype: "torch.dtype", trainable: bool = False,
    dequantised: bool = False,
) -> Any:  # fmt: skip
    """The PeftModel of the adapter in ``adapter`` on the base in ``directory``; ``records`` are its manifest's.

    The base is quantised and has the rows that the adapter was trained with. ``dequantised``: its weights are what
    the 8 or 4 bits stand for, in full precision, which is what the adapter was trained on. Evaluation mode unless
    ``trainable``.
    """
    from peft import PeftModel

    base = load_base(directory, dtype, records.get("quantisation"))
    if dequantised and records.get("quantisation"):
        base = base.dequantize().to(dtype)
    grow(base, records.get("vocabulary"))
    model = PeftModel.from_pretrained(base, str(adapter), is_trainable=trainable)
    return model.train() if trainable else model.eval()
