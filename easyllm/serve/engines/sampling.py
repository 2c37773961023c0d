"""Choosing the next token for each request by that request's own settings, inside one shared batch."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy
import torch
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)

from easyllm.serve.contract import Sampling, Token
from easyllm.serve.engines.grammar import Follower

FEW = 1024


@dataclass
class Slot:
    """What the sampler keeps of one running request."""

    sampling: Sampling
    generator: torch.Generator
    prompt: frozenset[int] = frozenset()
    follower: Follower | None = None
    """Where the answer is in its grammar."""
    tokens: list[Token] = field(default_factory=list)
    """The answer so far. Log-probabilities are the model's own: before temperature, penalties and cuts."""
    counts: Counter[int] = field(default_factory=Counter)
    """How often the answer has each token."""
    failure: str | None = None
    """Why no more tokens can be chosen."""

    @property
    def plain(self) -> bool:
        """Whether it takes the likeliest token as the model has it: such rows are done all at once."""
        asked = self.sampling
        return asked.temperature == 0 and not self.follower and not bends(asked)

    def take(self, token: Token) -> None:
        self.tokens.append(token)
        self.counts[token.id] += 1


def new_slot(sampling: Sampling, prompt: list[int] | None = None, follower: Follower | None = None) -> Slot:
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    return Slot(sampling, generator, frozenset(prompt or ()), follower)


def bends(asked: Sampling) -> bool:
    """Whether any logit is changed before the choice."""
    penalties = asked.frequency_penalty or asked.presence_penalty or asked.repetition_penalty != 1.0
    return bool(penalties or asked.logit_bias)


def choose(logits: torch.Tensor, slot: Slot) -> int:
    """The next token id from ``logits`` [vocabulary]; it is added to the slot with its log-probability."""
    logits = logits.float().cpu()
    token = pick(logits, slot)
    slot.take(tell(logits[None], torch.tensor([token]), [slot.sampling.likeliest])[0])
    if slot.follower and not slot.failure:
        slot.follower.take(token)
        slot.failure = slot.follower.trouble
    return token


def pick(logits: torch.Tensor, slot: Slot) -> int:
    """The next token id from ``logits`` [vocabulary]: penalties, grammar, temperature and cuts, then chance."""
    asked = slot.sampling
    bent = bend(logits, slot) if bends(asked) else logits
    if slot.follower:
        allowed = bits(slot.follower.allowed(), bent.numel())
        slot.failure = slot.follower.trouble
        if not slot.failure:
            bent = bent.masked_fill(~allowed, -math.inf)
    if asked.temperature == 0:
        return int(bent.argmax())
    ids, kept = survivors(bent / asked.temperature, asked)
    if not len(ids):  # a broken model's logits are no numbers; that must not end its neighbours' answers too
        return int(bent.argmax())
    # An exponential race picks token i with probability p_i, from this request's own generator. Every token draws,
    # so that one more or less at the edge of a cut does not change what the others drew.
    race = -torch.rand(bent.shape, generator=slot.generator)[ids].log()
    return int(ids[(kept.softmax(-1) / race).argmax()])


def bend(logits: torch.Tensor, slot: Slot) -> torch.Tensor:
    """``logits`` [vocabulary] with logit_bias added and what was said before penalised."""
    asked = slot.sampling
    logits = logits.clone()
    for token, bias in asked.logit_bias:
        logits[token] += bias
    if asked.repetition_penalty != 1.0:
        said = torch.tensor(sorted(slot.prompt | slot.counts.keys()), dtype=torch.long)
        values = logits[said]
        logits[said] = torch.where(values < 0, values * asked.repetition_penalty, values / asked.repetition_penalty)
    if slot.counts and (asked.frequency_penalty or asked.presence_penalty):
        answered = torch.tensor(list(slot.counts), dtype=torch.long)
        times = torch.tensor(list(slot.counts.values()), dtype=logits.dtype)
        logits[answered] -= times * asked.frequency_penalty + asked.presence_penalty
    return logits


def bits(mask: bytes, count: int) -> torch.Tensor:
    """The first ``count`` bits of ``mask`` as booleans; what it has no bit for is False."""
    flags = numpy.unpackbits(numpy.frombuffer(mask, numpy.uint8), bitorder="little")[:count].astype(bool)
    return torch.nn.functional.pad(torch.from_numpy(flags), (0, count - len(flags)))


def survivors(logits: torch.Tensor, asked: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, logits) that top_k, top_p, min_p and typical_p leave, each cut seeing what the one before left.

    Order and edges are those of transformers' warpers: the likeliest (or most typical) token always stays, and
    tokens as likely as the last one of top_k stay with it.
    """
    floor = float(logits.topk(asked.top_k).values[-1]) if 0 < asked.top_k < logits.numel() else -math.inf
    if floor == -math.inf and logits.min() > floor:
        ids, kept = torch.arange(logits.numel()), logits
    else:
        ids = ((logits >= floor) & (logits > -math.inf)).nonzero()[:, 0]
        kept = logits[ids]
    if not len(ids):
        return ids, kept
    if asked.top_p < 1.0:
        likelihoods = (kept - kept.max()).exp()
        probabilities, order = likeliest_first(likelihoods / likelihoods.sum(), asked.top_p)
        kept = kept[order]
        within = probabilities.cumsum(-1) - probabilities < asked.top_p
        within[0] = True
        ids, kept = ids[order][within], kept[within]
    if asked.min_p > 0.0:
        likely = kept >= kept.max() + math.log(asked.min_p)
        ids, kept = ids[likely], kept[likely]
    if asked.typical_p < 1.0:
        typical = most_typical(kept, asked.typical_p)
        ids, kept = ids[typical], kept[typical]
    return ids, kept


def likeliest_first(probabilities: torch.Tensor, mass: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(probabilities, places) in falling order: only the first FEW where those already have more than ``mass``.

    A sharp distribution, as most are, has its whole nucleus there; sorting a large vocabulary costs milliseconds.
    """
    first = probabilities.topk(min(FEW, len(probabilities)))
    if len(probabilities) <= FEW or first.values.sum() > mass:
        return first.values, first.indices
    ordered = probabilities.sort(descending=True)
    return ordered.values, ordered.indices


def most_typical(logits: torch.Tensor, mass: float) -> torch.Tensor:
    """Which tokens belong to the smallest set that is most typical and reaches ``mass`` (arXiv:2202.00666)."""
    logprobs = logits.log_softmax(-1)
    probabilities = logprobs.exp()
    surprise = (logprobs + (-probabilities * logprobs).sum()).abs()
    ordered, order = surprise.sort()
    last = int((probabilities[order].cumsum(-1) < mass).sum().clamp(max=len(order) - 1))
    return surprise <= ordered[last]


def tell(logits: torch.Tensor, chosen: torch.Tensor, likeliest: list[int]) -> list[Token]:
    """The ``chosen`` token of each row of ``logits`` [rows, vocabulary], and so many likeliest ones beside it."""
    total = logits.logsumexp(-1, keepdim=True)
    own = (logits.gather(-1, chosen[:, None]) - total)[:, 0].tolist()
    best: list[tuple[tuple[int, float], ...]] = [()] * len(own)
    if any(likeliest):
        top = logits.topk(min(max(likeliest), logits.shape[-1]), dim=-1)
        rows = zip(top.indices.tolist(), (top.values - total).tolist(), likeliest, strict=True)
        best = [tuple(zip(ids[:count], values[:count], strict=True)) for ids, values, count in rows]
    return [Token(*each) for each in zip(chosen.tolist(), own, best, strict=True)]


class PerRequestSampler(ContinuousBatchingLogitsProcessor):
    """Makes the chosen token of each row its highest score, so that the manager's argmax takes it.

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
        numbers = tensor_arg[: scores.shape[0]].tolist()
        # A cancelled request's last row has no slot any more.
        rows = [(row, slot) for row, number in enumerate(numbers) if (slot := self.slots.get(number))]
        plain = [(row, slot) for row, slot in rows if slot.plain]
        if plain:
            self._take_likeliest(scores, plain)
        odd = [(row, slot) for row, slot in rows if not slot.plain]
        if odd:
            copies = scores[[row for row, _ in odd]].float().cpu()  # one transfer, not one for each row
            for (row, slot), logits in zip(odd, copies, strict=True):
                scores[row, choose(logits, slot)] = math.inf
        return scores

    def _take_likeliest(self, scores: torch.Tensor, plain: list[tuple[int, Slot]]) -> None:
        """The greedy rows in one go; the manager's argmax finds the same tokens in scores left as they are."""
        alone = len(plain) == scores.shape[0]
        logits = scores if alone else scores[[row for row, _ in plain]]
        told = tell(logits.float(), logits.argmax(-1), [slot.sampling.likeliest for _, slot in plain])
        for (_, slot), token in zip(plain, told, strict=True):
            slot.take(token)


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
