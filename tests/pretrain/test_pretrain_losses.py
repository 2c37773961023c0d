"""The loss curve and the choice of checkpoints, without a model."""

from pathlib import Path

from easyllm.core.nodes.heartbeat import Beat, culprits
from easyllm.pretrain import checkpoints, losses


def row(step: int, loss: float = 1.5) -> losses.Row:
    return losses.Row(step, loss / step, 1e-3, 0.1 + 0.2, step * 256, 0.5, 2.5 if step % 2 else None)


def test_a_resumed_curve_holds_every_step_once(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    losses.keep_up_to(path, 0)
    for step in range(1, 8):
        losses.append(path, row(step))
    with path.open("a") as file:
        file.write("8,0.1")  # a kill in the middle of a line
    assert losses.keep_up_to(path, 4) == [row(step) for step in range(1, 5)]
    for step in range(5, 9):
        losses.append(path, row(step))
    assert losses.read(path) == [row(step) for step in range(1, 9)]
    assert path.read_text().splitlines()[0] == (
        "step,loss,learning_rate,grad_norm,tokens,seconds,validation,tokens_per_second,utilisation"
    )


def test_a_last_line_that_looks_whole_but_has_no_end_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    losses.keep_up_to(path, 0)
    losses.append(path, row(1))
    path.write_text(path.read_text().rstrip("\n"))
    assert losses.read(path) == []


def test_the_running_mean_starts_at_the_first_value_and_follows() -> None:
    assert losses.running_mean([4.0, 4.0, 4.0]) == [4.0, 4.0, 4.0]
    assert 1.0 < losses.running_mean([4.0] * 5 + [1.0] * 5)[-1] < 4.0


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    losses.picture([row(step) for step in range(1, 30)], tmp_path / "losses.png", "tiny")
    assert (tmp_path / "losses.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_newest_whole_checkpoint_wins_and_a_half_written_one_never(tmp_path: Path) -> None:
    for step in (50, 100, 150):
        checkpoints.path_of(tmp_path, step).mkdir()
    (tmp_path / ".step-000200.partial").mkdir()
    assert checkpoints.newest(tmp_path) == (150, tmp_path / "step-000150")
    checkpoints.prune(tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000100", "step-000150"]
    assert checkpoints.newest(tmp_path / "not there") is None


def test_checkpoints_at_multiples_are_kept_beside_the_newest(tmp_path: Path) -> None:
    for step in range(10, 110, 10):
        checkpoints.path_of(tmp_path, step).mkdir()
    checkpoints.prune(tmp_path, keep=2, keep_every=40)
    assert [step for step, _ in checkpoints.whole(tmp_path)] == [40, 80, 90, 100]
    checkpoints.prune(tmp_path, keep=0, keep_every=40)  # as published: the last one stands elsewhere
    assert [step for step, _ in checkpoints.whole(tmp_path)] == [40, 80]


def beat(rank: int, waits: bool, time: float = 100.0) -> Beat:
    return Beat(rank, "host", 1000 + rank, 5, "data.py:1 read", waits, time)


def test_a_hung_rank_is_the_silent_one_or_the_one_that_does_not_wait() -> None:
    def names(*beats: Beat) -> list[int]:
        return [found.rank for found in culprits(list(beats), alive_after=90.0)]

    assert names(beat(0, True), beat(1, True, time=50.0), beat(2, False)) == [1]
    assert names(beat(0, True), beat(1, False), beat(2, True)) == [1]
    assert names(beat(0, True), beat(1, True)) == [0, 1]
