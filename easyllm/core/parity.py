"""Do two models say the same? Logits of both on the same prompts, as a report and a gate."""

from collections.abc import Iterable
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
    largest_logit: float = 0.0
    """Of the left, either sign: what the difference is measured by."""
    top1_required: bool = True
    """Whether one position with another most likely token is too many. Where it is not, the tolerance says how close
    two tokens are of which the order differs: within twice of it."""

    @property
    def holds(self) -> bool:
        same = self.top1_agreement == 1.0 or not self.top1_required
        return self.max_logit_difference <= self.tolerance and same

    def as_record(self) -> dict[str, Any]:
        return asdict(self) | {"holds": self.holds}

    def require(self) -> "Parity":
        """Self, or StageFailed: a stage whose two sides differ publishes nothing."""
        if not self.holds:
            raise failed("PARITY-001", **asdict(self))
        return self


def compare(
    left: "Iterable[torch.Tensor]",
    right: "Iterable[torch.Tensor]",
    names: tuple[str, str],
    tolerance: float,
    relative: bool = False,
    top1_required: bool = True,
) -> Parity:
    """Compare logits, one tensor [tokens, vocabulary] a prompt on each side, already cut to the real vocabulary.

    ``relative``: the tolerance is a share of the left's largest logit. A prompt's logits are let go before the next.
    """
    import torch

    largest, of_left, same, positions, prompts, dtype = 0.0, 0.0, 0, 0, 0, ""
    for a, b in zip(left, right, strict=True):
        if a.shape != b.shape:
            shapes = {"left_shape": tuple(a.shape), "right_shape": tuple(b.shape)}
            raise failed("PARITY-002", left=names[0], right=names[1], **shapes)
        difference = (a.float() - b.float()).abs().max().item()
        if difference != difference:  # NaN compares false with everything, so it must not pass as small
            raise failed("PARITY-003", left=names[0], right=names[1])
        largest, of_left = max(largest, difference), max(of_left, a.float().abs().max().item())
        same += int(torch.eq(a.argmax(-1), b.argmax(-1)).sum())
        positions, prompts, dtype = positions + a.shape[0], prompts + 1, str(a.dtype).removeprefix("torch.")
    allowed = tolerance * of_left if relative else tolerance
    return Parity(*names, prompts, positions, largest, same / positions, dtype, allowed, of_left, top1_required)
