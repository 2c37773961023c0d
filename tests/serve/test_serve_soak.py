"""A minute of mixed load, people who leave and bad input: the short form of benchmarks/serve_soak.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "serve_soak.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_minute_of_everything_loses_nothing_and_leaves_nothing_open() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(SCRIPT), "--minutes", "1", "--clients", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert "Left open at the end: nothing" in done.stdout, done.stdout + done.stderr
    assert "| lost or wronged | 0 |" in done.stdout, done.stderr


def test_what_is_lost_or_wronged_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from serve_soak import ANSWERED, BUSY, REFUSED, Request, growth_of, refusal

    good, bad = Request("/generate", b"{}", False), Request("/generate", b"{}", False, bad=True)
    assert refusal(good, 429, "{}") == BUSY
    assert refusal(bad, 422, '{"error": "no"}') == REFUSED
    for wrong in (refusal(good, 422, '{"error": "no"}'), refusal(bad, 500, '{"error": "no"}'), refusal(bad, 422, "{}")):
        assert wrong not in (ANSWERED, BUSY, REFUSED)
    assert growth_of([100.0] * 50 + [110.0] * 50) == pytest.approx(0.1)
    assert growth_of([50.0] * 20 + [100.0] * 80) == pytest.approx(0.0)  # the first fifth is the warm-up
