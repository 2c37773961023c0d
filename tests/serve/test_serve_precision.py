"""What the engine computes in and what it shares is decided in the open, and can be told."""

from pathlib import Path
from typing import Any

import pytest
import torch

from easyllm.core.errors import UserError
from easyllm.serve.config import ServeConfig
from easyllm.serve.engines.embedded import greedy_tokens
from easyllm.serve.engines.loading import load
from easyllm.serve.engines.precision import decide_dtype, decide_prefix_cache, precision_problems
from easyllm.serve.limits import Limits
from easyllm.serve.plan import server_command
from easyllm.serve.server import parse

CPU = torch.device("cpu")
LIMITS = Limits(200, 150, 2)


def test_a_server_says_why_it_computes_as_it_does(serve_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load(serve_model, LIMITS)
    loaded.voice.engine.stop()
    said = capsys.readouterr().err
    assert "engine: embedded (the default" in said
    assert "computing in float32 on cpu: on a CPU" in said
    assert "prefix cache: True (in float32" in said
    assert "reordered weights: True (" in said


def test_bfloat16_is_computed_where_it_is_asked_for(serve_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load(serve_model, LIMITS, "bfloat16")
    try:
        engine: Any = loaded.voice.engine
        assert loaded.dtype == "bfloat16"
        assert engine.model.dtype == torch.bfloat16
        assert not engine.prefix_cache
        assert len(greedy_tokens(engine, [5, 6, 7], 4)) == 4
    finally:
        loaded.voice.engine.stop()
    said = capsys.readouterr().err
    assert "bfloat16 on cpu: set in the recipe" in said
    assert "prefix cache: False (in half precision" in said


def test_a_dtype_that_the_device_cannot_compute_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(values: Any, *others: Any, **settings: Any) -> Any:
        raise RuntimeError("\"softmax\" not implemented for 'Half'\nsecond line")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lacking)
    with pytest.raises(UserError, match="SERVE-080") as refused:
        decide_dtype("float16", CPU)
    assert "not implemented for 'Half'" in str(refused.value)
    assert "second line" not in str(refused.value)
    assert decide_dtype("auto", CPU)[0] == torch.float32


def test_what_the_recipe_says_of_the_prefix_cache_holds() -> None:
    assert decide_prefix_cache(None, torch.float32)[0] is True
    assert decide_prefix_cache(None, torch.bfloat16)[0] is False
    for asked in (True, False):
        assert decide_prefix_cache(asked, torch.bfloat16) == (asked, "set in the recipe")


def test_the_server_process_is_told_all_that_the_recipe_says() -> None:
    config = ServeConfig(model="m", dtype="float16", prefix_cache=False)
    given = parse(server_command(Path("m"), "m", config, LIMITS)[3:])
    assert (given.dtype, given.prefix_cache) == ("float16", False)
    given = parse(server_command(Path("m"), "m", ServeConfig(model="m"), LIMITS)[3:])
    assert (given.dtype, given.prefix_cache) == ("auto", None)


def test_another_engine_refuses_what_it_is_not_told() -> None:
    config = ServeConfig(
        model="m", engine="remote", remote="http://127.0.0.1:9/v1", dtype="bfloat16", prefix_cache=True
    )
    found = precision_problems(config)
    assert [(each.code, each.key) for each in found] == [
        ("SERVE-081", "serve.dtype"),
        ("SERVE-081", "serve.prefix_cache"),
    ]
    assert not precision_problems(ServeConfig(model="m", dtype="bfloat16"))
