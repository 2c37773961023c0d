"""Whoever is measured: a model in this process. Token ids go in; log-probabilities and token ids come out."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from transformers import GenerationConfig

from easyllm.core.batches import answer_loss, pad, padding_id
from easyllm.core.chat import end_token_ids
from easyllm.core.examples import Example
from easyllm.core.progress import Progress

T = TypeVar("T")
Pair = tuple[list[int], list[int]]
"""Ids that are given, and ids that follow and are scored."""


class Speaker(Protocol):
    """What an evaluation needs of a model, wherever it runs."""

    def loss(self, examples: Sequence[Example], bar: Progress) -> float:
        """Summed cross-entropy in nats over the label tokens."""
        ...

    def score(self, pairs: Sequence[Pair], bar: Progress) -> list[tuple[float, bool]]:
        """Of each pair: the summed log-probability of what follows, and whether a greedy answer would say it."""
        ...

    def say(self, prompts: Sequence[list[int]], longest: int, bar: Progress) -> list[list[int]]:
        """The greedy answer to each prompt, without its end token."""
        ...


class Local:
    """A model in this process."""

    def __init__(self, model: Any, tokenizer: Any, at_once: int) -> None:
        self._model, self._at_once = model, at_once
        self._filler = padding_id(tokenizer)
        self._ends = end_token_ids(tokenizer, model.generation_config)

    def loss(self, examples: Sequence[Example], bar: Progress) -> float:
        total = 0.0
        with torch.inference_mode():
            for rows in _grouped(examples, self._at_once, lambda example: len(example.ids)):
                batch = pad([examples[row] for row in rows], self._filler).to(self._model.device)
                total += answer_loss(self._model, batch).item()
                bar.advance(len(rows))
        return total

    def score(self, pairs: Sequence[Pair], bar: Progress) -> list[tuple[float, bool]]:
        found = [(0.0, True)] * len(pairs)
        for rows in _grouped(pairs, self._at_once, lambda pair: len(pair[0]) + len(pair[1])):
            ids, mask = self._padded([pairs[row][0] + pairs[row][1] for row in rows], left=False)
            with torch.inference_mode():
                logits = self._model(input_ids=ids, attention_mask=mask).logits
            for at, row in enumerate(rows):
                given, follows = pairs[row]
                part = logits[at, len(given) - 1 : len(given) + len(follows) - 1].float().log_softmax(-1)
                wanted = torch.tensor(follows, device=part.device)
                total = part.gather(-1, wanted[:, None]).sum().item()
                found[row] = (total, bool((part.argmax(-1) == wanted).all()))
            bar.advance(len(rows))
        return found

    def say(self, prompts: Sequence[list[int]], longest: int, bar: Progress) -> list[list[int]]:
        settings = GenerationConfig(
            do_sample=False, max_new_tokens=longest, eos_token_id=self._ends, pad_token_id=self._filler
        )  # fmt: skip
        found: list[list[int]] = [[]] * len(prompts)
        for rows in _grouped(prompts, self._at_once, len):
            # At the left, because generation goes on from the last column.
            ids, mask = self._padded([prompts[row] for row in rows], left=True)
            with torch.inference_mode():
                made = self._model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
            for row, tokens in zip(rows, made[:, ids.shape[1] :].tolist(), strict=True):
                found[row] = until(tokens, self._ends)
            bar.advance(len(rows))
        return found

    def _padded(self, rows: list[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids, mask), each [rows, longest]."""
        width = max(map(len, rows))

        def beside(row: list[int], filler: list[int]) -> list[int]:
            return filler + row if left else row + filler

        ids = [beside(row, [self._filler] * (width - len(row))) for row in rows]
        mask = [beside([1] * len(row), [0] * (width - len(row))) for row in rows]
        device = self._model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def until(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens before the first end; what follows it in a batch is padding."""
    stop = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:stop]


def _grouped(items: Sequence[T], at_once: int, length: Callable[[T], int]) -> list[list[int]]:
    """Item numbers in groups of like length, so that little is padded."""
    numbers = sorted(range(len(items)), key=lambda number: length(items[number]))
    return [numbers[at : at + at_once] for at in range(0, len(numbers), at_once)]
