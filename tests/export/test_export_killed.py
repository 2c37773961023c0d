"""An export that is killed publishes nothing, and what it had half written does not win."""

from pathlib import Path
from typing import Any

import pytest

from dying import publish_and_die
from easyllm.core.digest import of_file
from tiny_tune import make_job, publish, write_base

ASKED: dict[str, Any] = {"model": "base", "layouts": [], "gguf": ["f16"], "card": {"license": "mit"}}


@pytest.mark.slow
def test_a_killed_export_publishes_nothing_and_the_next_one_is_whole(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    partial = tmp_path / "run" / "export.partial"
    publish_and_die(tmp_path, "export", ASKED, call="easyllm.export.gguf_files:convert:1")
    half = (partial / "gguf" / "tiny-f16.gguf").stat().st_size
    assert half
    assert not (tmp_path / "run" / "export").exists()
    publish_and_die(tmp_path, "export", ASKED, rename="export")  # all is made, and is about to get its name
    assert (partial / "manifest.json").is_file()
    assert not (tmp_path / "run" / "export").exists()
    made = publish(make_job(tmp_path, "export", ASKED))
    assert not partial.exists()
    assert made.records["parity"][0]["holds"]
    files = {entry["path"]: entry for entry in made.outputs}
    file = tmp_path / "run" / "export" / "gguf" / "tiny-f16.gguf"
    assert file.stat().st_size == files["gguf/tiny-f16.gguf"]["bytes"] == 2 * half
    assert of_file(file) == files["gguf/tiny-f16.gguf"]["sha256"]
