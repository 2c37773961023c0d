"""From text to a merged model by `make`, in the container, as an ordinary user: what comes out is his."""

import csv
import json
import os
from pathlib import Path

import pytest

from docker_house import SCALED_DOWN, Engine, House, Images

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]


def owners(folder: Path) -> set[tuple[int, int]]:
    return {(path.lstat().st_uid, path.lstat().st_gid) for path in [folder, *folder.rglob("*")]}


def test_two_ranks_pretrain_through_make_in_the_container(pretrained: House, images: Images) -> None:
    manifest = pretrained.manifest("pretrain")
    assert manifest["config"]["ranks"] == 2
    assert manifest["config"]["engine"] == "megatron"
    assert manifest["versions"]["image"].startswith(f"{images.train}@")
    with (pretrained.run_folder / "pretrain" / "losses.csv").open(encoding="utf-8") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 20
    assert losses[-1] < losses[0]


def test_every_file_the_container_made_belongs_to_the_user(merged: House) -> None:
    made = owners(merged.folder / "runs")
    assert {uid for uid, _gid in made} == {merged.uid}
    if os.geteuid() == 0:
        assert {gid for _uid, gid in made} == {merged.uid}


def test_finetuned_adapter_is_merged_in_the_container(merged: House, images: Images) -> None:
    for stage in ("convert", "instruct", "finetune", "merge"):
        assert merged.manifest(stage)["versions"]["image"].startswith(f"{images.train}@")
    assert list((merged.run_folder / "merge").glob("*.safetensors"))


def test_deepspeed_trains_in_the_container_and_compiles_nothing(pretrained: House, gpu_flags: None) -> None:
    own = "name=zero pretrain.corpus=/work/runs/tiny-cpu/corpus pretrain.deepspeed.zero_stage=2"
    done = pretrained.make("pretrain-deepspeed", "RUNTIME=docker", "RECIPE=tiny-cpu", f"ARGS={SCALED_DOWN} {own}")
    assert "compiling" not in done.stderr
    made = json.loads((pretrained.folder / "runs" / "zero" / "pretrain" / "manifest.json").read_text("utf-8"))
    assert made["config"]["engine"] == "deepspeed"
    assert made["metrics"]["last_loss"] < made["metrics"]["first_loss"]


def test_code_that_runs_is_the_images_also_in_a_checkout(engine: Engine, house: House, images: Images) -> None:
    """The checkout is mounted as the working folder, and Python would take its easyllm for the ranks it starts."""
    run = "python -c 'import easyllm; print(easyllm.__file__)'"
    done = engine.inside(images.train, run, "-v", f"{house.folder}:/work")
    assert done.stdout.strip() == "/opt/easyllm/easyllm/__init__.py"


def test_doctor_in_the_container_reads_the_passport(house: House, images: Images, gpu_flags: None) -> None:
    done = house.make("doctor", "RUNTIME=docker", "ARGS=--json", expect=None)
    found = json.loads(done.stdout[done.stdout.index("{") :])
    assert images.train in json.dumps(found)
