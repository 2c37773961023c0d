"""LoRA adapters inside a running model: each token of a shared forward pass gets its own request's adapter, or none.

Continuous batching packs the tokens of all requests into one row. Before each pass the requests in it tell which
tokens are whose; every linear layer then adds ``scale * up(down(x))`` to the tokens of each adapter that stands on it.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

BASE = 0
"""The number that stands for no adapter. Others count up and are never used twice."""
_SALT = 1 << 20
"""More than any vocabulary: token ids stay below it."""


@dataclass(frozen=True)
class Pair:
    """What an adapter adds at one layer."""

    down: torch.Tensor
    """[rank, inputs]; PEFT's lora_A."""
    up: torch.Tensor
    """[outputs, rank]; PEFT's lora_B."""
    scale: float

    def added(self, inputs: torch.Tensor) -> torch.Tensor:
        """In the adapter's own precision, as PEFT computes it."""
        linear = torch.nn.functional.linear
        found: torch.Tensor = linear(linear(inputs.to(self.down.dtype), self.down), self.up) * self.scale
        return found


class _Pass(threading.local):
    """The forward pass that this thread is in: the engine's own, or one over given tokens beside it."""

    rows: Mapping[int, torch.Tensor | None] = {}
    """By adapter, its tokens' places in the row; None means all of them."""
    tokens = 0


class _Additions:
    """The forward hook of one linear layer."""

    def __init__(self, now: _Pass, path: str) -> None:
        self._now, self._path = now, path
        self.pairs: dict[int, Pair] = {}

    def __call__(self, layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
        found = None
        for number, rows in self._now.rows.items():
            pair = self.pairs.get(number)
            if pair is None:
                continue
            before = output if found is None else found
            if rows is None:
                found = (before + pair.added(inputs[0])).to(output.dtype)
                continue
            if inputs[0].shape[:2] != (1, self._now.tokens):
                raise ValueError(f"{self._path} does not see the tokens in their order, so no adapter can stand on it")
            changed = (before[0, rows] + pair.added(inputs[0][0, rows])).to(output.dtype)
            found = before.index_copy(1, rows, changed[None])
        return found


class AdapterLayers:
    """The places of ``model`` where adapters stand: every linear layer but the output head.

    ``in_batch`` gives the requests of the pass that is about to run, in the order of their tokens.
    """

    def __init__(self, model: Any, in_batch: Callable[[], list[Any]]) -> None:
        self._in_batch = in_batch
        self._now = _Pass()
        self._numbers: frozenset[int] = frozenset()
        head = model.get_output_embeddings()  # sees the last token of each request only
        self.modules: dict[str, Any] = {
            path: module
            for path, module in model.named_modules()
            if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
        }
        self._additions = {path: _Additions(self._now, path) for path in self.modules}
        for path, module in self.modules.items():
            module.register_forward_hook(self._additions[path])
        model.register_forward_pre_hook(self._before, with_kwargs=True)

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of every layer, by path."""
        return {
            path: tuple(module.weight.shape) if isinstance(module, Conv1D) else tuple(module.weight.shape[::-1])
            for path, module in self.modules.items()
        }  # type: ignore[return-value]  # a matrix has two sides

    def put(self, number: int, pairs: Mapping[str, Pair]) -> None:
        """From the next pass on, tokens of ``number`` get ``pairs``. No request may have that number yet."""
        for path, pair in pairs.items():
            self._additions[path].pairs[number] = pair
        self._numbers |= {number}

    def drop(self, number: int) -> None:
        """Forget an adapter. A cancelled request's last pass may still name it: nobody reads what comes of that."""
        self._numbers -= {number}
        for addition in self._additions.values():
            addition.pairs.pop(number, None)

    @contextmanager
    def whole_pass(self, number: int) -> Iterator[None]:
        """Passes of this thread that are not the engine's are of this adapter alone."""
        self._now.rows = {} if number == BASE else {number: None}
        try:
            yield
        finally:
            self._now.rows = {}

    def _before(self, model: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """The engine's passes alone have logits_indices (transformers' model_runner.py)."""
        if "logits_indices" not in named:
            return
        tokens = int(named["input_ids"].shape[1])
        self._now.rows, self._now.tokens = self._rows(tokens, named["input_ids"].device), tokens

    def _rows(self, tokens: int, device: torch.device) -> dict[int, torch.Tensor | None]:
        ranges: dict[int, list[range]] = {}
        at = 0
        for request in self._in_batch():
            ranges.setdefault(number_of(request.state.request_id), []).append(range(at, at + request.query_length))
            at += request.query_length
        if at != tokens:
            raise ValueError(f"a pass over {tokens} tokens whose requests have {at}: nobody knows which are whose")
        alone = len(ranges) == 1
        return {
            number: None if alone else torch.tensor([place for part in parts for place in part], device=device)
            for number, parts in ranges.items()
            if number in self._numbers
        }


def request_id(number: int, adapter: int) -> str:
    """The engine's name of a request: it carries the adapter, which so holds as long as any trace of the request."""
    return f"request-{number}" if adapter == BASE else f"request-{number}/{adapter}"


def number_of(request: str) -> int:
    """The adapter in a ``request_id``."""
    return int(request.partition("/")[2] or BASE)


def salted(ids: list[int], number: int) -> list[int]:
    """Ids that equal those of the same tokens and the same adapter only.

    transformers hashes whole pages of them as 32-bit integers, so the number is spread over the first two.
    """
    if number == BASE or len(ids) < 2:
        return ids
    high, low = divmod(number, 2047)
    return [ids[0] + low * _SALT, ids[1] + high * _SALT, *ids[2:]]
