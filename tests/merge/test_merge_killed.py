"""A merge that is killed publishes nothing, keeps what was published before, and the next one is whole."""

from pathlib import Path

import pytest
from safetensors import SafetensorError
from safetensors.torch import load_file

from dying import publish_and_die
from easyllm.core.digest import of_file
from tiny_tune import make_job, publish, tune

SHARDS = {"shard_gb": 2e-5}  # several files of 20 kB


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["easyllm.core.families.shards:save_file:2", "easyllm.merge.run:ask_pair:1"])
def test_a_killed_merge_leaves_the_old_model_and_the_next_one_is_whole(tmp_path: Path, moment: str) -> None:
    tune(tmp_path)
    publish(make_job(tmp_path, "merge", {"shard_gb": 1}))
    out, partial = tmp_path / "run" / "merge", tmp_path / "run" / "merge.partial"
    before, wanted = of_file(out / "model.safetensors"), load_file(out / "model.safetensors")
    publish_and_die(tmp_path, "merge", SHARDS, call=moment)
    assert of_file(out / "model.safetensors") == before  # the model of the merge before
    if "save_file" in moment:
        [_, half] = sorted(partial.glob("*.safetensors"))
        with pytest.raises(SafetensorError):
            load_file(half)
    else:
        assert len(list(partial.glob("*.safetensors"))) > 2
    publish(make_job(tmp_path, "merge", SHARDS))
    assert not partial.exists()
    shards = [load_file(file) for file in sorted(out.glob("*.safetensors"))]
    assert len(shards) > 2
    merged = {name: tensor for shard in shards for name, tensor in shard.items()}
    assert merged.keys() == wanted.keys()
    assert all(merged[name].equal(tensor) for name, tensor in wanted.items())
