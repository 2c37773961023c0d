"""Text comes out whole whatever the tokens cut: characters, spaces, stop strings."""

import random
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.chat import load_tokenizer
from easyllm.serve.text import Detokenizer, StopStrings, decode


@pytest.fixture(scope="module")
def tokenizer(serve_model: Path) -> Any:
    return load_tokenizer(serve_model)


def streamed(tokenizer: Any, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*[detokenizer.add(token) for token in ids], detokenizer.finish()]


@pytest.mark.parametrize("text", ["人工智能🌊正在改变世界，naïve café 👩‍👩‍👧", "  two  spaces\n\n\ttab ", "the sea"])
def test_chinese_and_emoji_stream_as_whole_characters(tokenizer: Any, text: str) -> None:
    pieces = streamed(tokenizer, tokenizer.encode(text))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_cut_across_tokens_waits_for_its_last_byte(tokenizer: Any) -> None:
    ids = tokenizer.encode("🌊")
    assert len(ids) == 4
    assert streamed(tokenizer, ids) == ["", "", "", "🌊", ""]


def test_streamed_babble_is_the_text_of_all_tokens_at_once(tokenizer: Any) -> None:
    rng = random.Random(3)
    for _ in range(300):
        ids = [rng.randrange(len(tokenizer)) for _ in range(rng.randrange(1, 40))]
        assert "".join(streamed(tokenizer, ids)) == decode(tokenizer, ids)


def feed(stops: tuple[str, ...], keep: bool, pieces: list[str]) -> tuple[str, bool]:
    finder, text = StopStrings(stops, keep), ""
    for piece in pieces:
        fresh, hit = finder.add(piece)
        text += fresh
        if hit:
            return text, True
    return text + finder.finish(), False


@pytest.mark.parametrize(("keep", "text"), [(False, "one, two, "), (True, "one, two, three")])
def test_a_stop_string_is_found_across_token_borders(keep: bool, text: str) -> None:
    assert feed(("three",), keep, ["one, ", "two, t", "hr", "ee", ", four"]) == (text, True)


def test_nothing_of_a_stop_string_is_shown_before_it_is_sure() -> None:
    finder = StopStrings(("END",), keep=False)
    assert [finder.add(piece)[0] for piece in ("a E", "N", "x E", "ND")] == ["a ", "", "ENx ", ""]


def test_what_only_looked_like_a_stop_string_is_given_back_at_the_end() -> None:
    assert feed(("END",), False, ["the EN"]) == ("the EN", False)


def test_stop_strings_against_a_search_in_the_whole_text() -> None:
    rng = random.Random(5)
    for _ in range(2000):
        text = "".join(rng.choice("ab") for _ in range(12))
        stops = tuple({"".join(rng.choice("ab") for _ in range(rng.randrange(1, 5))) for _ in range(2)})
        cuts = sorted(rng.sample(range(13), 3))
        pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, 12], strict=True)]
        ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
        kept, hit = feed(stops, True, pieces)
        assert (kept, hit) == ((text[: min(ends)], True) if ends else (text, False))
        trimmed, hit = feed(stops, False, pieces)
        assert hit == bool(ends)
        assert text.startswith(trimmed)
        assert not any(stop in trimmed for stop in stops)
