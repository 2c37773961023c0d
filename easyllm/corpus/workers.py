"""Work divided among processes of their own, where that is worth it; results come back in the order of the work."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from itertools import chain
from multiprocessing import connection
from typing import Any, Protocol

from easyllm.core.errors import StageFailed, UserError, failed
from easyllm.corpus.pieces import Piece
from easyllm.corpus.shards import Shaper, Shard, Work, read_shard

AHEAD = 4
"""Results for each worker that may be there or under way before the oldest one is: no more is held than that."""

Done = tuple[Piece, Shard]


class Numbered(Protocol):
    """A part of the work; no two have the same number."""

    @property
    def number(self) -> int: ...


class Maker(Protocol):
    """Made once in every worker, by a class that takes what all of them must know."""

    def make(self, part: Any, /) -> Any: ...


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def make_shards(work: Work, pieces: Iterable[Piece], workers: int) -> Generator[Done, None, None]:
    """(piece, shard) of every piece, in order. What a cut run left whole is not done again.

    Raises what reading the documents raises, and StageFailed CORPUS-010 when a worker dies.
    """
    waiting = iter(pieces)
    head: list[tuple[Piece, Shard | None]] = []
    new = 0
    while new < 2 and (piece := next(waiting, None)):  # one piece alone needs no second process
        head.append((piece, read_shard(work.directory, piece.number)))
        new += head[-1][1] is None
    rest = ((piece, read_shard(work.directory, piece.number)) for piece in waiting)
    if workers == 1 or new < 2:
        shaper = None
        for piece, shard in chain(head, rest):
            if shard is None:
                shaper = shaper or Shaper(work)
                shard = shaper.make(piece)
            yield piece, shard
        return
    crew = Crew(Shaper, work, workers)
    try:
        yield from crew.run(chain(head, rest))
    finally:
        crew.dismiss()


class Crew:
    """Worker processes, each with a pipe of its own; a worker that dies is noticed, one that is orphaned ends."""

    def __init__(self, maker: type[Maker], work: Any, most: int) -> None:
        # Spawned: a fork after the tokenizer's threads have run could inherit a lock that nobody lets go of.
        self._context = multiprocessing.get_context("spawn")
        self._maker, self._work, self._most = maker, work, most
        self._processes: dict[Any, Any] = {}
        """By the pipe to each."""
        self._idle: list[Any] = []
        self._busy: dict[Any, int] = {}
        self._results: dict[int, Any] = {}
        """Done, and waiting for an older one."""

    def run(self, parts: Iterable[tuple[Numbered, Any]]) -> Iterator[tuple[Any, Any]]:
        """(part, its result), in order, for (part, its result or None where it has yet to be made)."""
        order: deque[Numbered] = deque()
        for part, result in parts:
            order.append(part)
            if result is None:
                self._hand_out(part)
            else:
                self._results[part.number] = result
            yield from self._in_order(order, leave=AHEAD * self._most)
        yield from self._in_order(order, leave=0)

    def _in_order(self, order: deque[Numbered], leave: int) -> Iterator[tuple[Any, Any]]:
        """What is done from the beginning of ``order`` on; waits while more than ``leave`` are not."""
        while order:
            if order[0].number in self._results:
                part = order.popleft()
                yield part, self._results.pop(part.number)
            elif len(order) > leave:
                self._collect()
            else:
                return

    def _hand_out(self, part: Numbered) -> None:
        if not self._idle and len(self._processes) < self._most:
            self._idle.append(self._hire())
        while not self._idle:
            self._collect()
        pipe = self._idle.pop()
        self._busy[pipe] = part.number
        try:
            pipe.send(part)
        except BrokenPipeError as error:
            raise self._died(pipe) from error

    def _hire(self) -> Any:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._maker, self._work), daemon=True)
        process.start()
        theirs.close()
        self._processes[ours] = process
        return ours

    def _collect(self) -> None:
        """Take what is done; wait until something is."""
        ready: list[Any] = connection.wait(list(self._busy))
        for pipe in ready:
            try:
                answer: Any = pipe.recv()
            except (EOFError, ConnectionResetError) as error:
                raise self._died(pipe) from error
            if isinstance(answer, BaseException):
                raise answer
            self._results[self._busy.pop(pipe)] = answer
            self._idle.append(pipe)

    def _died(self, pipe: Any) -> StageFailed:
        process = self._processes[pipe]
        process.join()
        return failed("CORPUS-010", stage="corpus", key="corpus.workers", status=process.exitcode, workers=self._most)

    def dismiss(self) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.join()


def _serve(pipe: Any, maker: type[Any], work: Any) -> None:
    """The life of a worker: a part in, its result out, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each core has a worker
    made: Maker | None = None
    while True:
        try:
            part = pipe.recv()
        except EOFError:
            return
        try:
            made = made or maker(work)
            answer: Any = made.make(part)
        except (UserError, OSError) as error:
            answer = error
        pipe.send(answer)


def _end_with_parent() -> None:
    """A worker that outlived a killed parent would write into the run that goes on after it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
