"""Which requests share the next forward pass, and which of them may share what is in the key-value cache."""

from typing import Any

from transformers.generation.continuous_batching import scheduler as upstream
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus

from easyllm.serve.adapters.layers import BASE, number_of, salted

NAME = "easyllm"
PATIENCE = 4
"""Passes that a long prompt lets shorter ones go first; then it is its turn whatever comes."""


class FairScheduler(upstream.FIFOScheduler):
    """Answers under way go on first; of the prompts still to be read, short ones first, and none waits for ever.

    transformers' own order gives a long prompt every pass until it has been read, so that a short question
    behind it waits for all of it.
    """

    def reset(self) -> None:
        super().reset()
        self._passed_over: dict[str, int] = {}

    def _process_candidates(self, candidates: list[RequestState], *budgets: Any) -> Any:
        self._make_room()
        answering = [state for state in candidates if state.status == RequestStatus.DECODING]
        reading = [state for state in candidates if state.status != RequestStatus.DECODING]
        reading.sort(key=self._turn)
        # What is left of the pass after the first one is too little to count as a turn.
        self._passed_over = {
            state.request_id: self._passed_over.get(state.request_id, 0) + 1 if place else 0
            for place, state in enumerate(reading)
        }
        return super()._process_candidates([*answering, *reading], *budgets)

    def _turn(self, state: RequestState) -> tuple[bool, int]:
        patient = self._passed_over.get(state.request_id, 0) < PATIENCE
        return patient, len(state.remaining_prefill_tokens)

    def _make_room(self) -> None:
        """Give up the oldest kept blocks, so that this pass finds free ones for all it may write.

        transformers gives them up, all of them, only when an answer under way is out of room: a new request
        would wait for the answers before it to end.
        """
        cache = self.cache
        if not cache.use_prefix_sharing:
            return
        for allocator in cache.cache_allocators.values():
            wanted = -(-cache.max_batch_tokens // allocator.tokens_per_page) + self.max_requests_per_batch
            free = free_blocks(cache, allocator)
            dropped = list(allocator.ledger.cached_blocks)[: max(0, wanted - free)]
            for block in dropped:
                del allocator.ledger.cached_blocks[block]
                del allocator.ledger.hash_to_block[allocator.ledger.block_to_hash.pop(block)]
            cache.pool.free_blocks(allocator.index, dropped)
        cache.pool.try_to_free_sectors()


def free_blocks(cache: Any, allocator: Any) -> int:
    """Blocks that nobody holds, neither a request nor the prefix cache."""
    sectors: int = cache.pool.num_free_sectors * allocator.blocks_per_sector
    return sectors + int(cache.pool.count_free_blocks(allocator.index))


def held_blocks(cache: Any) -> int:
    """Blocks that running requests hold; those kept for a later prompt of the same beginning do not count."""
    return sum(
        allocator.num_blocks - free_blocks(cache, allocator) - len(allocator.ledger.cached_blocks)
        for allocator in cache.cache_allocators.values()
    )


def share_within(cache: Any) -> None:
    """Let requests share cached keys and values only where their adapters, which their ids carry, are the same.

    Keys and values depend on the weights, so two adapters must never share them. transformers 5.23 knows blocks
    by a hash of their token ids alone (cache.py, search_prefix_match and mark_complete_blocks): here the ids are
    moved by the adapter before they are hashed. A test fails when those methods are not asked any more.
    """
    search, mark = cache.search_prefix_match, cache.mark_complete_blocks

    def search_prefix_match(request_id: str, prompt_ids: list[int]) -> int:
        return int(search(request_id, salted(prompt_ids, number_of(request_id))))

    def mark_complete_blocks(state: RequestState, complete_blocks: dict[str, int]) -> None:
        adapter = number_of(state.request_id)
        if adapter == BASE:
            mark(state, complete_blocks)
        elif complete_blocks and state.status != RequestStatus.FINISHED:
            ids = salted(state.initial_tokens + state.generated_tokens, adapter)
            for name, count in complete_blocks.items():
                cache.cache_allocators[name].mark_complete_blocks(state.request_id, ids, count)

    cache.search_prefix_match = search_prefix_match
    cache.mark_complete_blocks = mark_complete_blocks


upstream.SCHEDULER_MAPPING[NAME] = FairScheduler
