"""Do two models say the same? Logits of both on the same prompts, as a report and a gate."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from easyllm.core.errors import failed

if TYPE_CHECKING:
    import torch

PROMPTS = (
    "The quick brown fox jumps over the lazy dog.",
    "def fibonacci(n):\n    return n if n < 2 else",
    "人工智能正在改变世界，",
    "In 1969, the first people walked on the Moon; 12 × 12 = 144.",
)
"""Real prompts in two languages, code and digits: a swapped row shows in at least one of them."""


@dataclass(frozen=True)
class Parity:
    """How far two models are apart on the same token ids."""

    left: str
    right: str
    prompts: int
    positions: int
    """Token positions compared, over all prompts."""
    max_logit_difference: float
    top1_agreement: float
    """Share of positions whose most likely next token is the same."""
    dtype: str
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.max_logit_difference <= self.tolerance and self.top1_agreement == 1.0

    def as_record(self) -> dict[str, Any]:
        return asdict(self) | {"holds": self.holds}

    def require(self) -> "Parity":
        """Self, or StageFailed: a stage whose two sides differ publishes nothing."""
        if not self.holds:
            raise failed("PARITY-001", **asdict(self))
        return self


def compare(
    left: "Sequence[torch.Tensor]", right: "Sequence[torch.Tensor]", names: tuple[str, str], tolerance: float
) -> Parity:
    """Compare logits, one tensor [tokens, vocabulary] a prompt on each side, already cut to the real vocabulary."""
    import torch

    largest, same, positions = 0.0, 0, 0
    for a, b in zip(left, right, strict=True):
        if a.shape != b.shape:
            shapes = {"left_shape": tuple(a.shape), "right_shape": tuple(b.shape)}
            raise failed("PARITY-002", left=names[0], right=names[1], **shapes)
        difference = (a.float() - b.float()).abs().max().item()
        if difference != difference:  # NaN compares false with everything, so it must not pass as small
            raise failed("PARITY-003", left=names[0], right=names[1])
        largest = max(largest, difference)
        same += int(torch.eq(a.argmax(-1), b.argmax(-1)).sum())
        positions += a.shape[0]
    dtype = str(left[0].dtype).removeprefix("torch.")
    return Parity(names[0], names[1], len(left), positions, largest, same / positions, dtype, tolerance)
