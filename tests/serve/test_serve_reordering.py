"""Reordered weights are faster where several requests share a pass, and answer as the weights as they are."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from easyllm.serve.contract import Sampling
from easyllm.serve.engines.embedded import greedy_reference
from easyllm.serve.engines.loading import load, load_weights
from easyllm.serve.engines.reordering import FEWEST_ROWS, MOST_ROWS, ReorderedLinear, reorder, reorders
from easyllm.serve.limits import Limits
from watched_engine import answer, prompt_of

CPU = torch.device("cpu")
PLENTY = 10**12


@pytest.fixture
def plain_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each multiplication by the weights as they are."""
    seen: list[int] = []
    linear = torch.nn.functional.linear

    def watched(inputs: torch.Tensor, *given: Any) -> torch.Tensor:
        seen.append(inputs.numel() // inputs.shape[-1])
        return linear(inputs, *given)

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    return seen


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_multiplies_as_before_by_the_copy_that_is_faster(
    bias: bool, dtype: torch.dtype, plain_calls: list[int]
) -> None:
    if not reorders(dtype):
        pytest.skip("this processor does not multiply by reordered weights of this precision")
    torch.manual_seed(1)
    layer = torch.nn.Linear(48, 80, bias=bias, dtype=dtype)
    reordered = ReorderedLinear(layer)
    with torch.inference_mode():
        for rows in (1, FEWEST_ROWS - 1, FEWEST_ROWS, 9, MOST_ROWS, MOST_ROWS + 1):
            for inputs in (
                torch.randn(1, rows, 48, dtype=dtype),
                torch.randn(48, rows, dtype=dtype).t(),
                torch.randn(1, 2 * rows, 48, dtype=dtype)[:, ::2],
            ):
                wanted = layer(inputs)
                plain_calls.clear()
                found = reordered(inputs)
                assert bool(plain_calls) == (not FEWEST_ROWS <= rows <= MOST_ROWS)
                assert found.shape == wanted.shape
                torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6 if dtype == torch.float32 else 2e-2)


def test_requests_that_share_passes_are_answered_as_by_generate_with_the_weights_as_they_are(
    serve_model: Path, plain_calls: list[int]
) -> None:
    loaded = load(serve_model, Limits(200, 150, 6))
    engine: Any = loaded.voice.engine
    prompts = [prompt_of(seed, 10 + seed) for seed in range(6)]
    plain_calls.clear()

    async def crowd() -> list[list[Any]]:
        return await asyncio.gather(*(answer(engine, ids, 30, Sampling()) for ids in prompts))

    try:
        said = [[token.id for token in tokens] for tokens in asyncio.run(crowd())]
    finally:
        engine.stop()
    assert not [rows for rows in plain_calls if FEWEST_ROWS <= rows <= MOST_ROWS]
    untouched = load_weights(serve_model, torch.float32, CPU)
    assert said == [greedy_reference(untouched, ids, 30, loaded.ends) for ids in prompts]


def test_without_memory_to_spare_nothing_is_reordered(serve_model: Path) -> None:
    model = load_weights(serve_model, torch.float32, CPU)
    done, why = reorder(model, 1000)
    assert not done
    assert "0 MB that are left" in why
    assert not any(isinstance(module.forward, ReorderedLinear) for module in model.modules())
    assert reorder(model, PLENTY)[0]
    assert isinstance(model.lm_head.forward, ReorderedLinear)


def test_a_precision_that_the_processor_does_not_take_is_left_as_it_is(serve_model: Path) -> None:
    done, why = reorder(load_weights(serve_model, torch.float16, CPU), PLENTY)
    assert (done, "this precision" in why) == (False, True)
