"""Near duplicates: ROUGE-L by its definition, in English and in Chinese, greedy and in order."""

import random
from itertools import product

import pytest

from easyllm.instruct.clean.similar import Similar
from easyllm.instruct.clean.tokens import same_key, tokens_of, units_of


def lcs(first: list[str], second: list[str]) -> int:
    """By the textbook's table."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for (i, a), (j, b) in product(enumerate(first), enumerate(second)):
        table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def rouge_l(first: str, second: str) -> float:
    known = Similar(minhash_above=9)
    known.keep(first)
    found = known.nearest(second)
    return found.rouge_l if found else 0.0


def judged(texts: list[str], minhash_above: int, threshold: float = 0.7) -> list[bool]:
    """Whether each is dropped, when those that are not are kept."""
    known, dropped = Similar(minhash_above), []
    for text in texts:
        found = known.nearest(text)
        dropped.append(found is not None and found.rouge_l > threshold)
        if not dropped[-1]:
            known.keep(text)
    return dropped


def test_rouge_l_is_twice_the_longest_common_subsequence_over_both_lengths() -> None:
    dice = random.Random(5)
    for _ in range(300):
        first, second = (dice.choices("abcdefg", k=dice.randint(1, 70)) for _ in range(2))
        assert rouge_l(" ".join(first), " ".join(second)) == 2 * lcs(first, second) / (len(first) + len(second))


def test_words_are_those_of_rouge_score() -> None:
    assert tokens_of("Don't re-use snake_case, e.g. U.S. 3.5%!") == [
        "don", "t", "re", "use", "snake", "case", "e", "g", "u", "s", "3", "5",
    ]  # fmt: skip


def test_mixed_text_is_counted_in_characters_and_words() -> None:
    assert tokens_of("用 Python 写 ＡＢＣ 排序。") == ["用", "python", "写", "abc", "排", "序"]
    assert units_of("写一首关于春天的诗。") == 9
    assert units_of("Write a poem.") == 3
    assert units_of("😀") == 1
    assert units_of(" \n") == 0


def test_a_chinese_near_duplicate_is_caught() -> None:
    first, second = "请写一首关于春天的短诗，要求语言优美。", "请写一首关于秋天的短诗，要求语言优美。"
    assert rouge_l(first, second) == 2 * 16 / 34
    assert judged([first, second, "列出三种可再生能源，并说明各自的优点。"], 9) == [
        False,
        True,
        False,
    ]


def test_a_pair_of_exactly_seven_in_ten_stays() -> None:
    first, second = "a b c d e f g h i j", "a b c d e f g x y z"
    assert rouge_l(first, second) == 0.7
    assert judged([first, second], 9) == [False, False]
    assert judged([first, second], 9, threshold=0.69) == [False, True]
    # 14 of 20 in every other way that lengths allow
    for common in range(7, 700, 7):
        pair = [" ".join([*"w" * common, *letter * (common // 7 * 3)]) for letter in "xy"]
        assert rouge_l(*pair) == 0.7


def test_what_was_dropped_drops_nothing_in_its_turn() -> None:
    chain = ["a b c d e f g h i j", "a b c d e f g h x y", "a b c d e f z q x y"]
    assert rouge_l(chain[1], chain[2]) > 0.7 > rouge_l(chain[0], chain[2])
    assert judged(chain, 9) == [False, True, False]


def test_the_first_of_equally_similar_ones_is_named() -> None:
    known = Similar(9)
    for text in ("one two three", "two three four", "three two one"):
        known.keep(text)
    found = known.nearest("two three")
    assert found is not None
    assert found.as_json() == {"rouge_l": 0.8, "instruction": "one two three"}
    assert known.nearest("nothing shared") is None
    assert known.nearest("?!") is None
    assert Similar(9).nearest("the first of all") is None


@pytest.mark.parametrize("above", [0, 150])
def test_minhash_finds_what_the_comparison_with_all_finds(above: int) -> None:
    dice = random.Random(11)
    vocabulary = [f"w{number}" for number in range(400)]
    texts = [" ".join(dice.choices(vocabulary, k=dice.randint(4, 20))) for _ in range(200)]
    texts += ["".join(chr(0x4E00 + dice.randrange(900)) for _ in range(dice.randint(6, 30))) for _ in range(100)]
    for text in dice.sample(texts, 100):
        parts = text.split(" ") if " " in text else list(text)
        for _ in range(dice.randint(1, max(1, len(parts) // 2))):
            parts[dice.randrange(len(parts))] = dice.choice(vocabulary if " " in text else "的一是不了人我在有他")
        texts.append((" " if " " in text else "").join(parts))
    dice.shuffle(texts)
    expected = judged(texts, minhash_above=10**6)
    assert 40 < sum(expected) < 100
    assert judged(texts, above) == expected


def test_case_width_spaces_and_punctuation_make_no_new_instruction_but_symbols_do() -> None:
    assert same_key("Write a poem!") == same_key("  write  A POEM ")
    assert same_key("写一首诗，关于 春天。") == same_key("写一首诗关于春天")
    assert same_key("Ｐｙｔｈｏｎ") == same_key("python")
    assert same_key("Explain C++") != same_key("Explain C")
    assert same_key("3+5=?") != same_key("35=?")
    assert same_key("add 1 23") != same_key("add 12 3")
    known = Similar(9)
    known.keep("Write a poem!")
    assert known.same("write a poem") == "Write a poem!"
    assert known.same("write a song") is None
