"""What must hold before anybody is answered: memory for the longest prompts, and the template of the training."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from easyllm.core.errors import UserError
from easyllm.serve.config import ServeConfig
from easyllm.serve.contract import Remote
from easyllm.serve.engines.loading import load
from easyllm.serve.engines.memory import container_bytes, free_bytes, require_memory
from easyllm.serve.engines.remote import load_remote
from easyllm.serve.limits import Limits, cache_bytes, read_json
from easyllm.serve.rehearsal import rehearse

EDITED = Path(__file__).parent.parent / "broken" / "data" / "chat-model-edited"
LIMITS = Limits(64, 60, 2)


def test_a_cache_that_does_not_fit_is_refused_with_the_product_that_does(serve_model: Path) -> None:
    limits = Limits(total_tokens=192, input_tokens=150, concurrent_requests=10)
    needed = cache_bytes(limits, read_json(serve_model / "config.json"), 4)
    assert needed == 10 * 192 * 2 * 2 * 2 * 12 * 4  # keys and values, layers, heads, head size, fp32
    require_memory(limits, serve_model, torch.float32, needed)
    with pytest.raises(UserError, match=r"SERVE-044 .*10 requests of 192 tokens.*1920 now, is at most 960"):
        require_memory(limits, serve_model, torch.float32, needed // 2)


def test_a_server_whose_requests_cannot_fit_does_not_start(serve_model: Path) -> None:
    with pytest.raises(UserError, match="SERVE-044"):
        load(serve_model, Limits(200, 150, 10**9))


def test_a_container_has_the_memory_it_was_given_and_files_it_has_cached_count_as_free(tmp_path: Path) -> None:
    assert container_bytes(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("600\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 200\nactive_file 50\n")
    assert container_bytes(tmp_path) is None
    assert free_bytes(torch.device("cpu"), tmp_path) > 1000
    (tmp_path / "memory.max").write_text("1000\n")
    assert container_bytes(tmp_path) == free_bytes(torch.device("cpu"), tmp_path) == 650


WAYS: dict[str, Callable[[], object]] = {
    "embedded": lambda: load(EDITED, LIMITS),
    "remote": lambda: load_remote(EDITED, "tiny", LIMITS, Remote("http://127.0.0.1:9/v1")),
    "rehearsal": lambda: rehearse(EDITED, "tiny", ServeConfig()),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_no_way_of_serving_takes_a_model_whose_sealed_template_does_not_reproduce(way: str) -> None:
    with pytest.raises(UserError, match="SERVE-004"):
        WAYS[way]()
