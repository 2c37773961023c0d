"""How full the line to a teacher is kept: requests in flight against the limit, in a whole run.

``python benchmarks/instruct_teacher.py --requests 400`` starts a teacher on loopback that takes 200 ms for every answer
and asks through the ordered loop that the stage uses: prompts made when the answers before them are there, answers
heard in the order of asking, each on the disk before it is. Counted twice, from the first request to the last answer:
how many requests are in flight as the client sees it, and how many the teacher has in hand, by its own clock; between
the two lie the way there and back and the work of the openai client.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from measuring import machine, versions

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from asking import ask_all, kept, question, teacher_job
from easyllm.instruct.teacher.endpoint import Endpoint
from easyllm.instruct.teacher.open import open_teacher
from misbehaving_teacher import misbehaving_teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=0.2, help="that the teacher takes for an answer")
    options = parser.parse_args()
    milliseconds = options.seconds * 1000
    asked = f"{options.requests} requests, {milliseconds:g} ms each, at most {options.concurrency} at once"
    print(f"{asked}; {machine(versions('openai'))}", end="\n\n")
    print("| teacher | in flight at the limit | in hand at the limit | mean in hand | seconds | least | CPU ms each |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, shares in (("answers", {}), ("429 to 1 in 10, 500 to 1 in 20", {"storm": 0.1, "errors": 0.05})):
        print(f"| {name} | {run(options, shares)} |")


def run(options: argparse.Namespace, shares: dict[str, float]) -> str:
    """A row of the table."""
    asks = [question(number) for number in range(options.requests)]
    with tempfile.TemporaryDirectory() as folder, misbehaving_teacher(delay=options.seconds, **shares) as teacher:
        job = teacher_job(Path(folder), teacher.url, concurrency=options.concurrency, retries=20)

        async def ask() -> None:
            async with open_teacher(job, kept(job)) as client:
                await ask_all(client, asks)

        with in_flight() as ours:
            before, cpu = time.perf_counter(), sum(os.times()[:2])
            asyncio.run(ask())
            wall, cpu = time.perf_counter() - before, sum(os.times()[:2]) - cpu
        count = teacher.count()
    full, _ = share_and_mean(ours, options.concurrency)
    theirs, mean = share_and_mean(count["at_once"], options.concurrency)
    least = -(-count["requests"] // options.concurrency) * options.seconds
    cost = cpu / count["requests"] * 1000
    return " | ".join((f"{full:.1%}", f"{theirs:.1%}", f"{mean:.2f}", f"{wall:.2f}", f"{least:.2f}", f"{cost:.1f}"))


@contextmanager
def in_flight() -> Iterator[list[tuple[float, int]]]:
    """(moment, requests handed to the openai client and not yet answered), at each change."""
    moments: list[tuple[float, int]] = []
    send, running = Endpoint.send, 0

    def moved(by: int) -> None:
        nonlocal running
        running += by
        moments.append((time.monotonic(), running))

    async def counted(self: Endpoint, body: dict[str, Any], key: str) -> Any:
        moved(1)
        try:
            return await send(self, body, key)
        finally:
            moved(-1)

    Endpoint.send = counted
    yield moments
    Endpoint.send = send


def share_and_mean(moments: Sequence[tuple[float, int]], limit: int) -> tuple[float, float]:
    """(share of the time between first and last moment with ``limit`` in flight, mean in flight)."""
    held = [(later - now, running) for (now, running), (later, _) in pairwise(moments)]
    whole = moments[-1][0] - moments[0][0]
    full = sum(seconds for seconds, running in held if running >= limit)
    return full / whole, sum(seconds * running for seconds, running in held) / whole


if __name__ == "__main__":
    main()
