"""The adapters of a served base: each proven as it is put there, each asked for by name, gone when nobody uses it."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from easyllm.core.chat import seal
from easyllm.core.errors import Problem, UserError, failed, problem, refuse
from easyllm.core.messages import say
from easyllm.core.progress import note
from easyllm.serve.adapters.files import (
    WEIGHTS,
    AdapterFiles,
    base_problems,
    fit_problems,
    rank_problems,
    read_files,
    require,
    room_problems,
)  # fmt: skip
from easyllm.serve.adapters.layers import BASE, AdapterLayers, Pair
from easyllm.serve.adapters.settings import AdapterSettings
from easyllm.serve.contract import AdapterCard, EngineFailed, Sampling
from easyllm.serve.engines.embedded import ContinuousBatching, greedy_reference
from easyllm.serve.words import WARM_UP_TOKENS

NOT_FOUND = 404


@dataclass
class Held:
    """An adapter in memory."""

    number: int
    """Its own for ever: one that comes later under the same name has another."""
    files: AdapterFiles
    card: AdapterCard
    ready: bool = False
    """Whether it has been proven, and may be asked for."""


class Shelf:
    """Puts adapters into a running engine and takes them out, beside the requests that run.

    ``load`` and ``unload`` may be called from any thread; one at a time works, the others wait.
    """

    def __init__(
        self, engine: ContinuousBatching, settings: AdapterSettings, tokenizer: Any, ends: list[int],
        prompts: list[list[int]],
    ) -> None:  # fmt: skip
        self._engine, self._settings = engine, settings
        self._seal = seal(tokenizer)["hash"]
        self._ends, self._prompts = ends, prompts
        self._layers = AdapterLayers(engine.model, engine.requests_in_pass)
        self._held: dict[str, Held] = {}
        self._last_number = BASE
        self._changing = threading.Lock()
        self._users: Counter[int] = Counter()
        """By number, the requests that it answers now."""
        self._idle = threading.Condition()
        """Guards which adapters there are, and who uses them."""

    def cards(self) -> list[AdapterCard]:
        """Those that can be asked for, by name."""
        return [held.card for _, held in sorted(self._held.items()) if held.ready]

    def take(self, name: str | None) -> int:
        """The number of an adapter, which stays where it is until it is given back. EngineFailed 404 where it is gone.

        None is the base.
        """
        if name is None:
            return BASE
        with self._idle:
            held = self._held.get(name)
            if held is None:
                raise EngineFailed(f"The model `{name}` does not exist any more", NOT_FOUND)
            self._users[held.number] += 1
        return held.number

    def give_back(self, number: int) -> None:
        """The request that took it has ended."""
        if number != BASE:
            with self._idle:
                self._users[number] -= 1
                self._idle.notify_all()

    @contextmanager
    def whole_pass(self, name: str | None) -> Iterator[None]:
        """Forward passes of this thread that are not the engine's are of this adapter."""
        number = self.take(name)
        try:
            with self._layers.whole_pass(number):
                yield
        finally:
            self.give_back(number)

    def load(self, name: str, path: Path, key: str = "lora_path") -> AdapterCard:
        """The adapter in ``path``, proven: it fits, it changes answers, and the engine says what generate() says.

        Raises UserError SERVE-050 to SERVE-058, StageFailed SERVE-059 where the proof fails.
        """
        with self._changing:
            files = self._readable(name, path, key)
            pairs = read_pairs(files, self._engine.model.device)
            self._last_number += 1
            card = AdapterCard(name, str(path), files.manifest.digest if files.manifest else None, int(time.time()))
            held = Held(self._last_number, files, card)
            self._layers.put(held.number, pairs)
            self._held[name] = held
            try:
                self._prove(held)
            except BaseException:
                del self._held[name]
                self._layers.drop(held.number)
                raise
            held.ready = True
        note(say("serve_adapter_loaded", name=name, rank=files.rank, layers=len(pairs), path=path))
        return card

    def unload(self, name: str) -> int:
        """Take its name away at once, and its weights when its last request has ended. Gives how many there were.

        Raises UserError SERVE-055 where there is no adapter of that name.
        """
        with self._changing:
            if name not in self._held:
                raise refuse("SERVE-055", stage="serve", key="lora_name", name=name, reason=say("adapter_unknown"))
            with self._idle:
                held = self._held.pop(name)
                waited = self._users[held.number]
        with self._idle:
            self._idle.wait_for(lambda: not self._users[held.number])
            del self._users[held.number]
        self._layers.drop(held.number)
        note(say("serve_adapter_unloaded", name=name))
        return waited

    def _readable(self, name: str, path: Path, key: str) -> AdapterFiles:
        """Refused here: whatever its files and what is held already forbid."""
        if name in self._held:
            raise refuse("SERVE-055", stage="serve", key=key, name=name, reason=say("adapter_taken"))
        files = read_files(name, path, key)
        held = [one.files.bytes for one in self._held.values()]
        settings = self._settings
        problems = base_problems(files, settings.base_digest, key)
        problems += fit_problems(files, self._layers.shapes(), key)
        problems += rank_problems(files, settings.most_rank, key)
        problems += room_problems(len(held) + 1, sum(held) + files.bytes, settings.most, settings.most_bytes, key)
        template = files.manifest.records.get("template") if files.manifest else None
        if template and template["hash"] != self._seal:
            told = {"trained": template["hash"][:12], "served": self._seal[:12]}
            problems.append(problem("SERVE-058", stage="serve", key=key, name=name, **told))
        require(problems)
        return files

    def _prove(self, held: Held) -> None:
        """Base and adapter answer in one batch, each what plain generate() answers with it alone."""
        name, model = held.files.name, self._engine.model
        told = {"stage": "serve", "key": f"serve.adapters.{name}", "name": name, "path": str(held.files.path)}
        # All prompts, each in a pass of its own: what is no number in one request of a batch is none in the others.
        changes = [self._changes(name, ids) for ids in self._prompts]
        if None in changes:
            raise refuse("SERVE-050", **told, reason=say("adapter_overflows"))
        if not any(changes):
            raise refuse("SERVE-054", **told)
        said = asyncio.run(self._ask_both(name))
        if model.dtype != torch.float32:
            return  # a near tie may fall the other way in half precision
        for (who, ids), mine in said.items():
            with self.whole_pass(who):
                reference = greedy_reference(model, list(ids), WARM_UP_TOKENS, self._ends)
            if mine != reference:
                differ = {"who": who or say("adapter_base"), "mine": mine, "reference": reference}
                raise failed("SERVE-059", stage="serve", name=name, **differ)

    def _changes(self, name: str, ids: list[int]) -> bool | None:
        """Whether any logit of any place differs between base and adapter; None where one of them is no number."""
        given = torch.tensor([ids], device=self._engine.model.device)
        found = []
        for who in (None, name):
            with self.whole_pass(who), torch.inference_mode():
                found.append(self._engine.model(input_ids=given, use_cache=False).logits)
        return not torch.equal(*found) if bool(found[1].isfinite().all()) else None

    async def _ask_both(self, name: str) -> dict[tuple[str | None, tuple[int, ...]], list[int]]:
        async def answer(who: str | None, ids: list[int]) -> list[int]:
            return [token.id async for token in self._engine.generate(ids, WARM_UP_TOKENS, Sampling(), who)]

        asked = [(who, tuple(ids)) for ids in self._prompts for who in (None, name)]
        answers = await asyncio.gather(*(answer(who, list(ids)) for who, ids in asked))
        return dict(zip(asked, answers, strict=True))


def read_pairs(files: AdapterFiles, device: torch.device) -> dict[str, Pair]:
    """The adapter's matrices by layer, in fp32 as PEFT keeps them. Raises UserError SERVE-050 for a broken file."""
    try:
        tensors = load_file(files.path / WEIGHTS)
    except Exception as error:  # safetensors has one class for all, and it is not importable under a public name
        told = {"name": files.name, "path": str(files.path), "reason": f"{type(error).__name__}: {error}"}
        raise refuse("SERVE-050", stage="serve", key=f"serve.adapters.{files.name}", **told) from error
    found = {}
    for path, names in files.layers.items():
        down, up = (tensors[names[side]].to(device, torch.float32).contiguous() for side in "AB")
        if not bool(down.isfinite().all() and up.isfinite().all()):
            raise refuse(
                "SERVE-050", stage="serve", key=f"serve.adapters.{files.name}", name=files.name, path=str(files.path),
                reason=say("adapter_not_finite", layer=path),
            )  # fmt: skip
        found[path] = Pair(down, up, files.scale_of(path))
    return found


def open_shelf(
    engine: ContinuousBatching, settings: AdapterSettings, tokenizer: Any, ends: list[int], prompts: list[list[int]]
) -> Shelf:
    """A shelf in ``engine`` with every adapter of ``settings``, or all the reasons why it cannot be had."""
    shelf = Shelf(engine, settings, tokenizer, ends, prompts)
    engine.shelf = shelf
    problems: list[Problem] = []
    for name, path in settings.paths:
        try:
            shelf.load(name, path, f"serve.adapters.{name}")
        except UserError as error:
            problems += error.problems
    require(problems)
    return shelf
