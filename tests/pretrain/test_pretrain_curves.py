"""``easyllm plot``: the curves of several runs in one picture and one table."""

import json
from pathlib import Path

import pytest

from easyllm.pretrain import losses


def curve(folder: Path, steps: int, rate: float, utilisation: float | None = None) -> Path:
    folder.mkdir(parents=True)
    losses.keep_up_to(folder / "losses.csv", 0)
    for step in range(1, steps + 1):
        held_out = 4 / step if step % 5 == 0 else None
        row = losses.Row(step, 3 / step, 1e-3, 0.5, step * 256, 256 / rate, held_out, rate, utilisation)
        losses.append(folder / "losses.csv", row)
    return folder


def test_runs_lie_side_by_side_in_a_picture_and_a_table(easyllm, tmp_path: Path) -> None:
    curve(tmp_path / "runs" / "small" / "pretrain", 20, 1000.0, 0.25)
    curve(tmp_path / "runs" / "large" / "pretrain.partial", 12, 250.0)
    done = easyllm("plot", "runs/small", "runs/large", "--by", "tokens")
    lines = [line.split("  ") for line in done.stdout.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[0][:3] == ["run", "steps", "tokens"]
    assert cells[1][:3] == ["small", "20", "5,120"]
    assert cells[1][4:] == ["0.2000", "20", "1,000", "25.0%"]
    assert cells[2][4:] == ["0.4000", "10", "250", "-"]
    assert cells[3] == ["curves.png"]
    assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    done = easyllm("plot", "runs/small/pretrain", "runs/large/pretrain.partial/losses.csv", "--out", "b.png", "--json")
    found = json.loads(done.stdout)
    assert [row["run"] for row in found["runs"]] == ["small", "large"]
    assert (tmp_path / found["picture"]).is_file()


def test_where_there_is_no_curve_nothing_is_drawn(easyllm, tmp_path: Path) -> None:
    curve(tmp_path / "begun", 0, 1.0)
    for named in ("begun", "nowhere"):
        assert "PLOT-001" in easyllm("plot", named, expect=2).stderr
    assert not (tmp_path / "curves.png").exists()
    assert "--by" in easyllm("plot", "begun", "--by", "days", expect=2).stderr


def test_two_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    from easyllm.pretrain.curves import open_curves

    paths = [curve(tmp_path / where / "same" / "pretrain", 3, 1.0) for where in ("a", "b")]
    assert [found.name for found in open_curves(paths)] == [str(path) for path in paths]
    assert open_curves(paths[:1])[0].name == "same"


@pytest.mark.parametrize("steps", [1, 250])
def test_throughput_is_that_of_the_last_steps(tmp_path: Path, steps: int) -> None:
    from easyllm.pretrain.curves import open_curves

    [found] = open_curves([curve(tmp_path / "run", steps, 512.0)])
    assert found.summary()["tokens/s"] == pytest.approx(512.0)
