"""Choosing the next token for each request by that request's own settings, inside one shared batch."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)

from easyllm.serve.contract import Sampling


@dataclass
class Slot:
    """What the sampler keeps of one running request."""

    sampling: Sampling
    generator: torch.Generator
    logprobs: list[float] = field(default_factory=list)
    """Of each token chosen so far, under the model's own distribution (before temperature and cuts)."""


def new_slot(sampling: Sampling) -> Slot:
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    return Slot(sampling, generator)


def choose(logits: torch.Tensor, slot: Slot) -> int:
    """The next token id from ``logits`` [vocabulary]; its log-probability is added to the slot."""
    logits = logits.float().cpu()
    settings = slot.sampling
    if settings.temperature == 0:
        token = int(logits.argmax())
    else:
        kept = cut(logits / settings.temperature, settings.top_k, settings.top_p)
        # An exponential race picks token i with probability p_i, from this request's own generator.
        race = torch.empty_like(kept).exponential_(generator=slot.generator)
        token = int((kept.softmax(-1) / race).argmax())
    slot.logprobs.append(float(logits[token] - logits.logsumexp(-1)))
    return token


def cut(logits: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """``logits`` with everything outside top_k and top_p at -inf. The likeliest token always stays."""
    if 0 < top_k < logits.numel():
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -math.inf)
    if top_p < 1.0:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        ordered = ordered.masked_fill((before >= top_p) & (before > 0), -math.inf)
        logits = torch.full_like(logits, -math.inf).scatter(0, order, ordered)
    return logits


class PerRequestSampler(ContinuousBatchingLogitsProcessor):
    """Leaves one finite score a row, that of the chosen token, so that the manager's argmax takes it.

    The manager's own processors know temperature, top_k and top_p per request, but neither a mix of greedy
    and sampled requests in one batch nor a seed per request.
    """

    supported_kwargs: ClassVar[dict[str, type]] = {"slot": int}
    ignored_kwargs: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.slots: dict[int, Slot] = {}

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.fill_(-1)

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        numbers = [request.state.logit_processor_kwargs.get("slot", -1) for request in requests_with_new_token]
        return torch.tensor(numbers, dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """``scores`` [rows, vocabulary]; ``tensor_arg`` holds each row's slot number."""
        for row, number in enumerate(tensor_arg[: scores.shape[0]].tolist()):
            slot = self.slots.get(number)
            if slot:  # a cancelled request's last row has none any more
                token = choose(scores[row], slot)
                scores[row] = -math.inf
                scores[row, token] = 0.0
        return scores


def install(manager: Any, sampler: PerRequestSampler) -> None:
    """Make ``sampler`` the only logits processor of a ContinuousBatchingManager that has not started.

    transformers 5.23 builds its list from the generation config alone (continuous_api.py, __init__), so there
    is no public way to hand one in. A test mixes greedy and seeded requests and fails when this breaks.
    """
    processors: ContinuousBatchingLogitsProcessorList = manager.logit_processor
    processors.logits_processor[:] = [sampler]
    processors.tensors_required = 1
    processors.do_processing = True
    processors._retrieve_processors_kwargs()
