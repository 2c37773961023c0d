"""Many requests at once, whose answers are heard in the order of asking: so that a run can be repeated."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def in_order(
    make: Callable[[int], T | None], do: Callable[[T], Coroutine[Any, Any, R]], lookahead: int
) -> AsyncGenerator[tuple[T, R], None]:
    """(item, what ``do`` made of it) for item 0, 1, 2 ... until ``make`` gives None.

    ``make(k)`` is called when the caller has seen results 0 to k - lookahead and no later one, whatever was answered
    first: what it makes of them depends on nothing but the answers. ``lookahead`` items are under way at once.

    What is done at once, as an answer that was kept earlier, is handed over before anything behind it begins: a run
    that is repeated stops where it stopped, and sends nothing that it had not sent before.

    An exception of ``do`` is raised in the place of its result. Leave it by ``aclosing``: items that nobody will hear
    of are cancelled then, and the teacher sees to it that an answer on its way is still kept.
    """
    waiting: deque[T] = deque()
    under_way: deque[tuple[T, asyncio.Task[R]]] = deque()
    made, more = 0, True
    try:
        while True:
            while more and len(under_way) + len(waiting) < lookahead:
                item = make(made)
                if item is None:
                    more = False
                    break
                waiting.append(item)
                made += 1
            if not under_way and not waiting:
                return
            if not under_way:
                under_way.append(_begin(waiting.popleft(), do))
                await asyncio.sleep(0)  # one turn, in which it may be done
            if not under_way[0][1].done():
                under_way.extend(_begin(item, do) for item in waiting)
                waiting.clear()
            item, task = under_way.popleft()
            yield item, await task
    finally:
        for _, task in under_way:
            task.cancel()
        await asyncio.gather(*(task for _, task in under_way), return_exceptions=True)


def _begin(item: T, do: Callable[[T], Coroutine[Any, Any, R]]) -> tuple[T, asyncio.Task[R]]:
    return item, asyncio.create_task(do(item))
