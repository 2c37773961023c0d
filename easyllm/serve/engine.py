"""Token ids in, token ids out: the engine, and the plain ``generate()`` it is held against."""

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from easyllm.core.errors import failed
from easyllm.serve.adapter_layers import BASE, request_id
from easyllm.serve.contract import Abilities, Engine, EngineFailed, Sampling, Scored, Token
from easyllm.serve.limits import PAGE_TOKENS, Limits
from easyllm.serve.one_pass import one_pass_at_a_time
from easyllm.serve.sampling import PerRequestSampler, install, new_slot
from easyllm.serve.scoring import score
from easyllm.serve.words import WARM_UP_TOKENS

if TYPE_CHECKING:
    from easyllm.serve.adapters import Shelf

PREFILL_TOKENS = 512
"""Tokens of one forward pass: a long prompt is read in such pieces, so that other answers go on."""


class ContinuousBatching:
    """transformers' ContinuousBatchingManager: all running requests share each forward pass."""

    def __init__(self, model: Any, ends: list[int], limits: Limits) -> None:
        settings = ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=limits.cache_blocks,
            max_batch_tokens=PREFILL_TOKENS,
            max_requests_per_batch=limits.concurrent_requests,
            safety_margin=0.0,  # the cache holds every request that is let in, so none has to wait for room
            use_cuda_graph=False,  # the sampler below is Python that a captured graph would skip
            use_async_batching=False,
        )
        # The end tokens come with each request; -1 keeps the manager from warning that there are none.
        greedy = GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=limits.total_tokens)
        try:
            self._manager = model.init_continuous_batching(greedy, settings)
        except ValueError as error:  # an attention kind it does not know
            raise failed("SERVE-012", stage="serve", reason=error) from error
        one_pass_at_a_time(model)
        self.model = model
        self._sampler = PerRequestSampler()
        install(self._manager, self._sampler)
        self._ends = ends
        self._numbers = itertools.count()
        self.shelf: Shelf | None = None
        """Its adapters, where it has any."""
        self._manager.start()

    @property
    def trouble(self) -> str | None:
        alive = self._manager.is_running() and self._manager.background_thread_status.fatal_error is None
        return None if alive else "the engine has died; restart the server"

    @property
    def abilities(self) -> Abilities:
        return Abilities(score=True, adapters=self.shelf is not None)

    def requests_in_pass(self) -> list[Any]:
        """Whose tokens the forward pass that runs now reads, in their order."""
        batch = self._manager.batch_processor
        return batch.inputs_and_outputs.requests_in_batch if batch else []

    async def score(self, ids: list[int], likeliest: int, adapter: str | None = None) -> list[Scored]:
        def work() -> list[Scored]:
            with self.shelf.whole_pass(adapter) if self.shelf else nullcontext():
                return score(self.model, ids, likeliest)

        return await asyncio.to_thread(work)

    async def generate(
        self, ids: list[int], max_new_tokens: int, sampling: Sampling, adapter: str | None = None
    ) -> AsyncGenerator[Token, None]:
        with self.shelf.lease(adapter) if self.shelf else nullcontext(BASE) as lora:
            async with aclosing(self._generate(ids, max_new_tokens, sampling, lora)) as tokens:
                async for token in tokens:
                    yield token

    async def _generate(
        self, ids: list[int], max_new_tokens: int, sampling: Sampling, lora: int
    ) -> AsyncGenerator[Token, None]:
        number = next(self._numbers)
        name = request_id(number, lora)
        slot = self._sampler.slots[number] = new_slot(sampling)
        arrivals: asyncio.Queue[Any] = asyncio.Queue()
        self._manager.register_result_handler(name, arrivals.put_nowait)
        finished, given = False, 0
        try:
            accepted = self._manager.add_request(
                ids, request_id=name, max_new_tokens=max_new_tokens, streaming=True,
                eos_token_id=self._ends, slot=number,
            )  # fmt: skip
            if accepted is None:
                raise EngineFailed("the engine takes no more requests")
            while not finished:
                output = await arrivals.get()
                if output.error is not None:
                    finished = True
                    raise EngineFailed(output.error)
                finished = output.is_finished()
                for token in output.generated_tokens[given:]:
                    yield Token(int(token), slot.logprobs[given])
                    given += 1
        finally:
            self._forget(name, number, finished)

    def _forget(self, name: str, number: int, finished: bool) -> None:
        if not finished:
            self._manager.cancel_request(name)
        router = self._manager.output_router
        with router._lock:  # a cancelled request never finishes, so its handler would stay for ever
            router.result_handlers.pop(name, None)
        self._sampler.slots.pop(number, None)

    @property
    def running(self) -> int:
        """Requests it still works on."""
        return len(self._sampler.slots)

    def stop(self) -> None:
        self._manager.stop(block=True, timeout=30, hard_stop=True)


def greedy_reference(model: Any, ids: list[int], max_new_tokens: int, ends: list[int]) -> list[int]:
    """The same answer by plain ``generate()``: the reference every engine is held against."""
    settings = GenerationConfig(
        do_sample=False, num_beams=1, repetition_penalty=1.0, max_new_tokens=max_new_tokens,
        eos_token_id=ends, pad_token_id=ends[0],
    )  # fmt: skip
    prompt = torch.tensor([ids], device=model.device)
    with torch.inference_mode():
        answer = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=settings)
    return [int(token) for token in answer[0, len(ids) :]]


def greedy_tokens(engine: Engine, ids: list[int], max_new_tokens: int) -> list[int]:
    """A whole greedy answer of ``engine``, for those outside an event loop."""

    async def collect() -> list[int]:
        return [token.id async for token in engine.generate(ids, max_new_tokens, Sampling())]

    return asyncio.run(collect())


def require_same_words(engine: Engine, model: Any, prompts: list[list[int]], ends: list[int]) -> None:
    """Warm the engine up and hold it to plain ``generate()``, token for token, where arithmetic is fp32.

    In half precision a near tie may fall the other way, so there it only has to answer. Raises StageFailed:
    an architecture that continuous batching reads wrongly must not be served in silence.
    """
    for ids in prompts:
        mine = greedy_tokens(engine, ids, WARM_UP_TOKENS)
        if model.dtype == torch.float32:
            reference = greedy_reference(model, ids, WARM_UP_TOKENS, ends)
            if mine != reference:
                raise failed("SERVE-013", stage="serve", mine=mine, reference=reference, tokens=len(ids))
