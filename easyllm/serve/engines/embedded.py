"""Token ids in, token ids out: the engine, and the plain ``generate()`` it is held against."""

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from easyllm.core.errors import failed
from easyllm.core.messages import say
from easyllm.core.progress import note
from easyllm.serve.adapters.layers import BASE, request_id
from easyllm.serve.contract import Abilities, Engine, EngineFailed, Sampling, Scored, Token
from easyllm.serve.engines.grammar import Follower, Grammars
from easyllm.serve.engines.one_pass import one_pass_at_a_time
from easyllm.serve.engines.sampling import PerRequestSampler, Slot, install, new_slot
from easyllm.serve.engines.scheduling import NAME, held_blocks, share_within
from easyllm.serve.engines.scoring import score
from easyllm.serve.limits import PAGE_TOKENS, Limits
from easyllm.serve.words import WARM_UP_TOKENS

if TYPE_CHECKING:
    from easyllm.serve.adapters.shelf import Shelf

PREFILL_TOKENS = 512
"""Tokens of one forward pass: a long prompt is read in such pieces, so that other answers go on."""
MOST_CRASHES, WITHIN_SECONDS = 3, 600
"""A worker that dies more often than this in so short a time is not started again."""
UNPROCESSABLE, UNAVAILABLE = 422, 503


class ContinuousBatching:
    """transformers' ContinuousBatchingManager: all running requests share each forward pass.

    When its worker dies, the requests under way fail, a new worker is made of the same weights, and ``prove``
    says whether it may answer again.
    """

    def __init__(
        self,
        model: Any,
        ends: list[int],
        limits: Limits,
        grammars: Grammars | None = None,
        prefix_cache: bool = True,
        prove: Callable[[Engine], None] | None = None,
    ) -> None:
        self.model = model
        self.grammars = grammars
        self._ends = ends
        self._limits = limits
        self._prefix_cache = prefix_cache
        self._prove = prove
        self._vocabulary_size = int(model.get_output_embeddings().weight.shape[0])
        self._sampler = PerRequestSampler()
        self._numbers = itertools.count()
        self.shelf: Shelf | None = None
        """Its adapters, where it has any."""
        self._open: dict[int, tuple[Any, Callable[[], None]]] = {}
        """Of every running request: its manager, and what tells it that the manager's worker has died."""
        self._trouble: str | None = None
        self._crashes: list[float] = []
        self.restarts = 0
        self._stopped = False
        one_pass_at_a_time(model)
        self._manager = self._new_manager()
        threading.Thread(target=self._watch, name="watch-engine", daemon=True).start()

    def _new_manager(self) -> Any:
        limits = self._limits
        settings = ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=limits.cache_blocks,
            max_batch_tokens=PREFILL_TOKENS,
            max_requests_per_batch=limits.concurrent_requests,
            safety_margin=0.0,  # the cache holds every request that is let in, so none has to wait for room
            scheduler_type=NAME,
            allow_block_sharing=self._prefix_cache,
            use_cuda_graph=False,  # the sampler below is Python that a captured graph would skip
            use_async_batching=False,
        )
        # The end tokens come with each request; -1 keeps the manager from warning that there are none.
        greedy = GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=limits.total_tokens)
        try:
            manager = self.model.init_continuous_batching(greedy, settings)
            install(manager, self._sampler)
            manager.batch_processor = manager._create_batch_processor()  # as its warmup() does: the cache is needed now
        except ValueError as error:  # an attention kind it does not know
            raise failed("SERVE-012", stage="serve", reason=error) from error
        share_within(manager.batch_processor.cache)
        manager.start()
        threading.Thread(target=self._tell_of_end, args=(manager,), name="tell-of-end", daemon=True).start()
        return manager

    @property
    def trouble(self) -> str | None:
        if self._trouble is None and not self._stopped:
            manager = self._manager
            error = manager.background_thread_status.fatal_error
            if error is not None or not manager.is_running():  # the watcher has not woken up yet
                return say("engine_restarting", reason=error)
        return self._trouble

    @property
    def abilities(self) -> Abilities:
        return Abilities(
            penalties=True, likeliest=True, grammar=self.grammars is not None, score=True,
            adapters=self.shelf is not None,
        )  # fmt: skip

    def requests_in_pass(self) -> list[Any]:
        """Whose tokens the forward pass that runs now reads, in their order."""
        batch = self._manager.batch_processor
        return batch.inputs_and_outputs.requests_in_batch if batch else []

    @property
    def prefix_cache(self) -> bool:
        """Whether prompts that begin alike are read once; some kinds of attention cannot share what was read."""
        return bool(self._manager.batch_processor.cache.use_prefix_sharing)

    @property
    def held_blocks(self) -> int:
        """Blocks of PAGE_TOKENS tokens that running requests hold in the key-value cache."""
        processor = self._manager.batch_processor
        return held_blocks(processor.cache) if processor else 0

    async def score(self, ids: list[int], likeliest: int, adapter: str | None = None) -> list[Scored]:
        unwanted = threading.Event()

        def work() -> list[Scored]:
            with self.shelf.whole_pass(adapter) if self.shelf else contextlib.nullcontext():
                return score(self.model, ids, likeliest, unwanted=unwanted.is_set)

        try:
            return await asyncio.to_thread(work)
        finally:
            unwanted.set()  # where the client has left, the thread ends after the piece it reads

    async def generate(
        self, ids: list[int], max_new_tokens: int, sampling: Sampling, adapter: str | None = None
    ) -> AsyncGenerator[Token, None]:
        self._require_known(sampling)
        slot = new_slot(sampling, ids, await self._follower(sampling))
        number = next(self._numbers)
        lora = self.shelf.take(adapter) if self.shelf else BASE
        name = request_id(number, lora)
        manager, arrivals = self._manager, asyncio.Queue[Any]()
        self._sampler.slots[number] = slot
        tell = _teller(arrivals)
        self._open[number] = manager, tell
        # Not put_nowait itself: a batch's news are all given in one of its requests' event loops, whosever that is.
        manager.register_result_handler(name, tell)
        finished, given = False, 0
        try:
            accepted = manager.add_request(
                ids, request_id=name, max_new_tokens=max_new_tokens, streaming=True,
                eos_token_id=self._ends, slot=number,
            )  # fmt: skip
            if accepted is None:
                raise EngineFailed(self.trouble or say("engine_stopping"), UNAVAILABLE)
            if not manager.is_running():  # it died before this request could be told of
                tell()
            while not finished:
                output = await arrivals.get()
                _raise_failure(output, slot, manager)
                finished = output.is_finished()
                for _ in output.generated_tokens[given:]:
                    yield slot.tokens[given]
                    given += 1
        finally:
            self._forget(manager, name, number, finished)
            if self.shelf:
                self.shelf.give_back(lora)

    def _require_known(self, sampling: Sampling) -> None:
        """An id beyond the vocabulary would end the worker, and with it everybody's answer."""
        for token, _ in sampling.logit_bias:
            if not 0 <= token < self._vocabulary_size:
                known = self._vocabulary_size - 1
                raise EngineFailed(f"`logit_bias` has the token id {token}; the last one is {known}", UNPROCESSABLE)

    async def _follower(self, sampling: Sampling) -> Follower | None:
        if sampling.grammar is None:
            return None
        assert self.grammars is not None, "the routes ask for no grammar where abilities.grammar is False"
        return await self.grammars.follower(sampling.grammar)

    def _forget(self, manager: Any, name: str, number: int, finished: bool) -> None:
        if not finished:
            manager.cancel_request(name)
        router = manager.output_router
        with router._lock:  # a cancelled request never finishes, so its handler would stay for ever
            router.result_handlers.pop(name, None)
        self._sampler.slots.pop(number, None)
        self._open.pop(number, None)

    @property
    def running(self) -> int:
        """Requests it still works on."""
        return len(self._sampler.slots)

    def stop(self) -> None:
        self._stopped = True
        self._manager.stop(block=True, timeout=30, hard_stop=True)

    def _watch(self) -> None:
        """Wait for the worker's end; one that was not asked for is a crash, after which a new worker begins."""
        while True:
            thread = self._manager._generation_thread
            if thread:
                thread.join()
            if self._stopped or not self._begin_again():
                return

    def _tell_of_end(self, manager: Any) -> None:
        """Wait for a worker's end, and tell whoever still waits for its tokens, a proof of the watcher's among them."""
        thread = manager._generation_thread
        if thread:
            thread.join()
        for asked, tell in list(self._open.values()):
            if asked is manager:
                tell()

    def _begin_again(self) -> bool:
        """Whether there is a worker again that answers as it should."""
        reason = str(self._manager.background_thread_status.fatal_error)
        self._trouble = say("engine_restarting", reason=reason)
        while self._may_try(time.monotonic()):
            note(say("serve_engine_restarting", reason=reason))
            self._manager.stop(block=True)  # frees the dead worker's cache before another is made
            try:
                self._manager = self._new_manager()
                if self._prove:
                    self._prove(self)
            except Exception as error:  # noqa: BLE001  # this thread must not end with the server half-way up
                reason = str(error) or type(error).__name__
                continue
            self._trouble = None
            self.restarts += 1
            note(say("serve_engine_again"))
            return True
        if self._stopped:
            return False
        self._trouble = say("engine_gave_up", crashes=MOST_CRASHES, seconds=WITHIN_SECONDS, reason=reason)
        note(self._trouble)
        return False

    def _may_try(self, now: float) -> bool:
        self._crashes = [when for when in self._crashes if now - when < WITHIN_SECONDS] + [now]
        return not self._stopped and len(self._crashes) <= MOST_CRASHES


def _teller(arrivals: "asyncio.Queue[Any]") -> Callable[..., None]:
    """Puts what it is told into ``arrivals`` from any thread; None is the news of the worker's death."""
    loop = asyncio.get_running_loop()

    def tell(output: Any = None) -> None:
        with contextlib.suppress(RuntimeError):  # whoever asked has closed his event loop
            loop.call_soon_threadsafe(arrivals.put_nowait, output)

    return tell


def _raise_failure(output: Any, slot: Slot, manager: Any) -> None:
    """EngineFailed where ``output``, None after the worker's death, says that there will be no more tokens."""
    # Whichever news comes first, the router's of the request or ours of the worker's end, the reason is the same.
    reason = manager.background_thread_status.fatal_error if output is None else output.error
    if output is None or reason is not None:
        raise EngineFailed(say("engine_lost_request") + (f" ({reason})" if reason else ""))
    if slot.failure is not None:
        raise EngineFailed(say("engine_lost_grammar", reason=slot.failure), UNPROCESSABLE)


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


def references_of(model: Any, prompts: list[list[int]], ends: list[int]) -> list[list[int]] | None:
    """Plain ``generate()``'s answers to ``prompts``; None in half precision, where a near tie may fall either way."""
    if model.dtype != torch.float32:
        return None
    return [greedy_reference(model, ids, WARM_UP_TOKENS, ends) for ids in prompts]


def require_same_words(engine: Engine, prompts: list[list[int]], references: list[list[int]] | None) -> None:
    """Warm the engine up and hold it to ``references``, token for token; without them it only has to answer.

    Raises StageFailed: an architecture that continuous batching reads wrongly must not be served in silence.
    """
    for place, ids in enumerate(prompts):
        mine = greedy_tokens(engine, ids, WARM_UP_TOKENS)
        if references and mine != references[place]:
            told = {"mine": mine, "reference": references[place], "tokens": len(ids)}
            raise failed("SERVE-013", stage="serve", **told)
