"""In which numbers the model computes, and why."""

from easyllm.core.messages import say

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""As torch and the architecture record call them."""


def choose_dtype(asked: str, device: str | None, has_bf16: bool = False) -> tuple[str, str]:
    """(dtype, reason). ``device`` is cuda or cpu, None where a plan cannot know it and takes the larger."""
    if asked != "auto":
        return DTYPES[asked], say("why_precision_asked", precision=asked)
    if device == "cuda" and has_bf16:
        return "bfloat16", say("why_bf16_gpu")
    return "float32", say("why_fp32_gpu" if device == "cuda" else "why_pretrain_fp32")
