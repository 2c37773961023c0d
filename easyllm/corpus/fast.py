"""A byte-level BPE tokenizer given to tiktoken's engine, where that is the same function from text to ids.

For a vocabulary that passes ``fast_of`` the merges are the same by construction:

* tiktoken merges the pair whose token has the lowest rank, and the ids, which it takes for ranks, rise with the merges;
* it takes a piece that is a token whole: each token it is given is what tokenizers makes of the token's own text;
* it merges any two tokens whose bytes make a token, listed as a merge or not. Were two such ever side by side, they
  would be so in the token's own text as well, which tokenizers would then not make that token of.

What is left, the classes of characters in two regex engines, is proven on hard strings and on the corpus itself.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tiktoken import Encoding
from tokenizers import AddedToken, Tokenizer, models
from tokenizers.normalizers import Normalizer

from easyllm.core.messages import say
from easyllm.corpus.patterns import GPT2, MARK, Split, split_of

BYTES = 256
_ONLY_MARKS = {MARK}


class NotTheSame(Exception):
    """tiktoken cannot express this tokenizer; its text is the reason, for people."""

    def __init__(self, name: str, /, **params: Any) -> None:
        super().__init__(say(name, **params))


@dataclass(frozen=True)
class Fast:
    """One tokenizer in tiktoken's engine. Pickles, so that it can go to other processes."""

    encoding: Encoding
    split: Split
    size: int
    """Ids from here on stand for bytes that the vocabulary lacks: tokenizers drops those, no engine else does."""
    lacks_bytes: bool
    nfc: bool
    """The tokenizer composes characters first."""
    odd_marks: re.Pattern[str] | None = None
    """Characters that tokenizers composes or orders otherwise than Python, whose Unicode is a newer one."""
    words: dict[str, int] = field(default_factory=dict)
    """Added tokens that are no special ones: they are found in the text before it is split."""

    def __post_init__(self) -> None:
        longest_first = sorted(self.words, key=len, reverse=True)
        finder = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None
        object.__setattr__(self, "_finder", finder)

    def encode(self, text: str) -> list[int] | None:
        """The ids of one text; None where only tokenizers knows them."""
        if MARK in text or (self.odd_marks and self.odd_marks.search(text)):
            return None
        finder: re.Pattern[str] | None = self._finder  # type: ignore[attr-defined]
        if finder is None:
            return self._between(text)
        ids: list[int] = []
        for index, part in enumerate(finder.split(text)):
            found = [self.words[part]] if index % 2 else self._between(part)
            if found is None:
                return None
            ids += found
        return ids

    def _between(self, text: str) -> list[int] | None:
        """The ids of a text in which no added token is to be found."""
        if self.nfc and not text.isascii():
            text = unicodedata.normalize("NFC", text)
        marked = self.split.mark(text)
        marks = len(marked) - len(text)
        if not marks and not self.lacks_bytes:
            return self.encoding.encode_ordinary(text)
        found = self.encoding.encode(marked, allowed_special=_ONLY_MARKS, disallowed_special=())
        ids = [id for id in found if id < self.size]
        return ids if len(found) - len(ids) == marks else None  # else some are stand-ins


def fast_of(tokenizer: Tokenizer) -> Fast:
    """``tokenizer`` in tiktoken's engine, special tokens in a text being plain text. Raises NotTheSame."""
    data = json.loads(tokenizer.to_str())
    split = split_of(_pattern(data["pre_tokenizer"]))
    if split is None:
        raise NotTheSame("unlike_pattern")
    nfc = _composes(data["normalizer"])
    odd_marks = re.compile(f"[{''.join(_odd_marks(tokenizer.normalizer))}]") if nfc else None
    model = data["model"]
    _plain_bpe(model)
    added = tokenizer.get_added_tokens_decoder()
    ranks = _ranks(model, {token.content for token in added.values()})
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    missing = [bytes([n]) for n in range(BYTES) if bytes([n]) not in ranks]
    stand_ins = {byte: size + n for n, byte in enumerate(missing)}
    mark = {MARK: size + BYTES}
    return Fast(
        Encoding("easyllm", pat_str=split.pattern, mergeable_ranks=ranks | stand_ins, special_tokens=mark),
        split, size, bool(missing), nfc, odd_marks, _words(added, nfc),
    )  # fmt: skip


def _pattern(pre: dict[str, Any] | None) -> str:
    """The one pattern that a pre-tokenizer splits by. Raises NotTheSame for one that does anything else."""
    pre = pre or {"type": "none"}
    steps: list[dict[str, Any]] = pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]
    last = steps[-1]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        raise NotTheSame("unlike_pre_tokenizer")
    if len(steps) == 1 and last["use_regex"]:
        return GPT2
    first = steps[0]
    isolated = first["type"] == "Split" and first["behavior"] in ("Isolated", "Removed") and not last["use_regex"]
    if len(steps) != 2 or not isolated or first["invert"] != (first["behavior"] == "Removed"):
        raise NotTheSame("unlike_pre_tokenizer")
    return str(first["pattern"].get("Regex"))


def _composes(normalizer: dict[str, Any] | None) -> bool:
    if normalizer and normalizer["type"] == "Sequence" and len(normalizer["normalizers"]) == 1:
        normalizer = normalizer["normalizers"][0]
    if normalizer and normalizer["type"] != "NFC":
        raise NotTheSame("unlike_normalizer", name=normalizer["type"])
    return normalizer is not None


def _odd_marks(normalizer: Normalizer) -> list[str]:
    """Always some: tokenizers' tables are of an older Unicode. The marks around are of the two commonest classes."""
    marks = [c for c in map(chr, range(0x300, 0x110000)) if unicodedata.combining(c) or unicodedata.decomposition(c)]
    return [mark for mark in marks if any(_odd(normalizer, text) for text in (mark, f"q{mark}\u0323\u0301"))]


def _odd(normalizer: Normalizer, text: str) -> bool:
    apart = unicodedata.normalize("NFD", text)
    return any(normalizer.normalize_str(t) != unicodedata.normalize("NFC", t) for t in (text, apart))


def _plain_bpe(model: dict[str, Any]) -> None:
    if model["type"] != "BPE":
        raise NotTheSame("unlike_model", name=model["type"])
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    for name in odd:
        if model.get(name):
            raise NotTheSame("unlike_setting", name=name)


def _ranks(model: dict[str, Any], added: set[str]) -> dict[bytes, int]:
    """The bytes of every token that merging can make, by its id. Raises NotTheSame where ids are no merge order."""
    vocabulary: dict[str, int] = model["vocab"]
    pairs: list[tuple[str, str]] = [(left, right) for left, right in model["merges"]]
    merged = [vocabulary[left + right] for left, right in pairs]
    if any(after < before for before, after in pairwise(merged)):
        raise NotTheSame("unlike_order")
    if not added.isdisjoint(left + right for left, right in pairs):
        raise NotTheSame("unlike_added")
    to_byte = byte_of_character()
    tokens = {token: id for token, id in vocabulary.items() if token not in added}
    if not all(character in to_byte for token in tokens for character in token):
        raise NotTheSame("unlike_bytes")
    # Whether merging alone makes it: a model that looks whole words up first would hide that.
    merging = models.BPE(vocab=vocabulary, merges=pairs)
    hidden = [t for t, id in tokens.items() if len(t) > 1 and [piece.id for piece in merging.tokenize(t)] != [id]]
    if not model.get("ignore_merges"):
        for token in hidden:  # no text ever gets it, and tiktoken would give it
            del tokens[token]
    elif not _all_listed(hidden, tokens, set(pairs)):
        raise NotTheSame("unlike_whole_words")
    return {bytes(to_byte[character] for character in token): id for token, id in tokens.items()}


def _all_listed(hidden: list[str], tokens: dict[str, int], pairs: set[tuple[str, str]]) -> bool:
    """A token that only a whole word gives: wherever two tokens make it, tokenizers merges them as tiktoken does."""
    return all(
        (token[:at], token[at:]) in pairs
        for token in hidden
        for at in range(1, len(token))
        if token[:at] in tokens and token[at:] in tokens
    )


def _words(added: dict[int, AddedToken], nfc: bool) -> dict[str, int]:
    """Added tokens that are no special ones. Raises NotTheSame where finding them is more than looking for them."""
    words = {token.content: int(id) for id, token in added.items() if not token.special}
    for token in added.values():
        plain = not (token.lstrip or token.rstrip or token.single_word) and not (nfc and token.normalized)
        if not token.special and not plain:
            raise NotTheSame("unlike_added")
    specials = [token.content for token in added.values() if token.special]
    # tokenizers looks for all of them at once, and a special one that is passed over may hide the beginning of a word.
    if any(_touch(special, word) for special in specials for word in words):
        raise NotTheSame("unlike_added")
    return words


def _touch(one: str, other: str) -> bool:
    """One lies in the other, or they can overlap in a text."""
    if one in other or other in one:
        return True
    shared = range(1, min(len(one), len(other)))
    return any(one[-n:] == other[:n] or other[-n:] == one[:n] for n in shared)


def byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: the printable character that stands for each byte in a vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others: Iterator[int] = (n for n in range(256) if n not in printable)
    return {chr(n): n for n in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
