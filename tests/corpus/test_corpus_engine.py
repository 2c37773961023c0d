"""The fast engine gives the tokenizer's own ids, or is not used, and says why."""

import json
import pickle
import random
import unicodedata
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from easyllm.core.stage import Result
from easyllm.corpus.encoder import Choice, Encoder, choose
from easyllm.corpus.fast import byte_of_character
from easyllm.corpus.hard_strings import HARD_STRINGS
from easyllm.corpus.patterns import GPT2, GPT4O, LLAMA3, MARK, QWEN2

Run = Callable[..., tuple[Path, Result]]
PATTERNS = {"gpt2": GPT2, "llama3": LLAMA3, "qwen2": QWEN2, "gpt4o": GPT4O}
PROSE = ["the sea and the ship, and 12 ships  again\n    in the\r\n\tmorning", "数字和汉字，标点。", *HARD_STRINGS]


def set_up(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.encode_special_tokens = True
    return tokenizer


def trained(pattern: str = GPT2, size: int = 400, **model: Any) -> Tokenizer:
    """A byte-level tokenizer that splits by ``pattern``."""
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(PROSE * 3, trainer)
    return set_up(tokenizer)


def edited(tokenizer: Tokenizer, edit: Callable[[dict[str, Any]], None]) -> Tokenizer:
    """The tokenizer with its file changed."""
    data = json.loads(tokenizer.to_str())
    edit(data)
    return set_up(Tokenizer.from_str(json.dumps(data)))


@pytest.fixture(scope="module")
def all_pairs() -> Tokenizer:
    """Every two bytes make a token, so a piece that ends elsewhere shows in the ids whatever the characters."""
    letters = list(byte_of_character())
    pairs = [(a, b) for a in letters for b in letters]
    vocabulary = {token: n for n, token in enumerate([*letters, *(a + b for a, b in pairs)])}
    return set_up(Tokenizer(models.BPE(vocab=vocabulary, merges=pairs)))


def noise(seed: int, texts: int) -> Iterator[str]:
    """Short texts of the characters that patterns are about."""
    parts = [
        *" \t\n\r\u3000\xa0\u2028\x85\x1caAbsdmtlve1²!./'ſKﬁ中あ가é\u0301😀\u200dǅ",
        MARK,
        "  ",
        "   ",
        "\r\n",
        "'s",
        "12345",
    ]
    dice = random.Random(seed)
    for _ in range(texts):
        yield "".join(dice.choices(parts, k=dice.randrange(1, 40)))


@pytest.mark.parametrize("name", PATTERNS)
def test_both_engines_split_every_kind_of_character_alike(all_pairs: Tokenizer, name: str) -> None:
    all_pairs.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERNS[name]), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    choice = choose(all_pairs, [])
    assert choice.decision.value == "tiktoken", choice.decision.why
    every = [*range(0x3500), *range(0xA000, 0xAC10), *range(0xD7A0, 0xD800), *range(0xF900, 0x13500, 3)]
    texts = [f"a{c} 1{c}2  {c}x {c}{c}  {c}!{c}\n{c}\n '{c}" for c in map(chr, [*every, *range(0x16800, 0x1FC00, 5)])]
    for text, ours, theirs in zip(texts, choice.encoder.encode(texts), Encoder(all_pairs).encode(texts), strict=True):
        assert ours == theirs, ascii(text)
    for text in noise(1, 8000):
        assert choice.encoder.encode([text]) == Encoder(all_pairs).encode([text]), ascii(text)


def test_composed_characters_are_composed_as_tokenizers_does_it() -> None:
    tokenizer = trained(QWEN2)
    tokenizer.normalizer = normalizers.NFC()
    choice = choose(tokenizer, PROSE)
    assert choice.decision.value == "tiktoken"
    marks = [chr(n) for n in range(0x300, 0x1F000) if unicodedata.combining(chr(n)) or n % 97 == 0]
    texts = [f"q{mark}\u0323\u0301 e{mark} \u1100\u1161{mark}" for mark in marks if not 0xD800 <= ord(mark) < 0xE000]
    assert choice.encoder.encode(texts) == Encoder(tokenizer).encode(texts)


def test_whole_words_before_merges_is_what_tiktoken_does_too() -> None:
    tokenizer = edited(trained(LLAMA3), lambda data: data["model"].update(ignore_merges=True))
    assert_same(choose(tokenizer, PROSE))

    def one_word_more(data: dict[str, Any]) -> None:
        data["model"]["vocab"]["shi"] = max(data["model"]["vocab"].values()) + 1  # no merge makes it

    plain = edited(trained(LLAMA3), one_word_more)
    choice = choose(plain, PROSE)
    assert_same(choice)
    assert choice.encoder.encode(["shi"]) != [[plain.token_to_id("shi")]]
    whole = edited(tokenizer, one_word_more)
    choice = choose(whole, PROSE)
    assert choice.decision.value == "tokenizers"
    assert "whole words only" in choice.decision.why
    assert choice.encoder.encode(["shi"]) == [[whole.token_to_id("shi")]]


def assert_same(choice: Choice) -> None:
    assert choice.decision.value == "tiktoken", choice.decision.why
    texts = [*PROSE, *noise(2, 500)]
    assert choice.encoder.encode(texts) == Encoder(choice.encoder.tokenizer).encode(texts)


def test_bytes_that_a_vocabulary_lacks_are_dropped_as_tokenizers_does_it() -> None:
    def without_some(data: dict[str, Any]) -> None:
        alphabet = {byte: c for c, byte in byte_of_character().items()}
        for byte in (0x00, 0x7F, 0xF3):
            data["model"]["vocab"].pop(alphabet[byte])

    choice = choose(edited(trained(), without_some), [])
    assert_same(choice)
    both = choice.encoder.encode(["a\x00b\U000f0000", "ab"])
    assert both == Encoder(choice.encoder.tokenizer).encode(["a\x00b\U000f0000", "ab"])


def test_added_words_are_found_and_special_ones_are_plain_text() -> None:
    tokenizer = trained()
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), "灯塔", "灯塔船"])
    tokenizer.add_special_tokens(["<|im_end|>"])
    choice = choose(set_up(tokenizer), PROSE)
    assert_same(choice)
    text = "灯塔船 灯塔  <think>x<|im_end|>  y<|endoftext|>"
    assert choice.encoder.encode([text]) == Encoder(tokenizer).encode([text])
    ids = choice.encoder.encode([text])[0]
    found = [
        tokenizer.token_to_id(token) in ids for token in ("灯塔", "灯塔船", "<think>", "<|im_end|>", "<|endoftext|>")
    ]
    assert found == [True, True, True, False, False]
    tokenizer.add_tokens([AddedToken("words", single_word=True)])
    assert "added tokens" in choose(tokenizer, []).decision.why


def test_an_encoder_goes_to_another_process_and_encodes_the_same() -> None:
    tokenizer = trained()
    tokenizer.add_tokens(["灯塔"])
    text = "a <|endoftext|> 灯塔  is\n   text"
    for encoder in (choose(tokenizer, PROSE).encoder, Encoder(tokenizer)):
        there = pickle.loads(pickle.dumps(encoder))
        assert there.encode([text, ""]) == encoder.encode([text, ""])
        assert (there.fast is None) == (encoder.fast is None)


def unlike() -> Iterator[tuple[str, Tokenizer]]:
    """(words of the reason, a tokenizer that tiktoken's engine cannot be)."""
    yield "its split pattern", trained(r"\w+|\s+|[^\w\s]+")
    byte_level = trained()
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    yield "its pre-tokenizer", byte_level
    bare = trained()
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    yield "its pre-tokenizer", bare
    lower = trained()
    lower.normalizer = normalizers.Lowercase()
    yield "normalises text by Lowercase", lower
    yield "its model is Unigram", edited(trained(), to_unigram)
    yield "its dropout", trained(dropout=0.1)
    yield "do not rise with its merges", edited(trained(), lambda data: data["model"]["merges"].reverse())
    yield "not all bytes", edited(trained(), lambda data: data["model"]["vocab"].update({"中": 999}))


def to_unigram(data: dict[str, Any]) -> None:
    data["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]], "byte_fallback": False}


@pytest.mark.parametrize(("reason", "tokenizer"), unlike())
def test_a_tokenizer_that_tiktoken_cannot_be_keeps_its_own_engine_and_the_reason_is_said(
    reason: str, tokenizer: Tokenizer
) -> None:
    choice = choose(tokenizer, PROSE)
    assert choice.decision.value == choice.record["engine"] == "tokenizers"
    assert reason in choice.decision.why
    assert "compared" not in choice.record


def test_the_first_text_with_other_ids_sends_the_corpus_back_to_tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    from easyllm.corpus.patterns import Split

    # The look-ahead is gone, and nothing is cut in its place.
    monkeypatch.setattr(Split, "mark", lambda self, text: text)
    choice = choose(trained(), [])
    assert choice.decision.value == "tokenizers"
    assert "other ids for '  a'" in choice.decision.why
    monkeypatch.setattr("easyllm.corpus.encoder.HARD_STRINGS", ())
    choice = choose(trained(), ["plain", "two  spaces"])
    assert "document 2 of the sample, 'two  spaces'" in choice.decision.why


def test_the_manifest_says_which_engine_and_how_it_was_proven(
    tmp_path: Path, run_corpus: Run, prose: Callable[..., Path]
) -> None:
    prose("a.jsonl")
    out, result = run_corpus(input=["a.jsonl"], tokenizer={"train": {"vocab_size": 400}})
    size = sum(len(json.loads(line)["text"].encode()) for line in (tmp_path / "a.jsonl").open(encoding="utf-8"))
    assert result.records["engine"] == {
        "engine": "tiktoken",
        "version": version("tiktoken"),
        "compared": {"documents": 200, "bytes": size, "hard_strings": len(HARD_STRINGS)},
    }
    (decision,) = [d for d in result.decisions if d.what == "token engine"]
    assert "200 documents" in decision.why
    # Two tokenizers that differ in what tiktoken is able to: the same tokens all the same.
    model = tmp_path / "model"
    (out / "tokenizer").rename(model)
    data = json.loads((model / "tokenizer.json").read_text())
    data["normalizer"] = {"type": "Strip", "strip_left": False, "strip_right": False}
    (model / "tokenizer.json").write_text(json.dumps(data))
    slow, result = run_corpus(out="slow", input=["a.jsonl"], tokenizer={"model": "model"})
    assert result.records["engine"]["engine"] == "tokenizers"
    assert (numpy.fromfile(slow / "tokens.bin", "uint16") == numpy.fromfile(out / "tokens.bin", "uint16")).all()
