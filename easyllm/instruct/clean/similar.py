"""Which earlier instruction is most like a new one, by ROUGE-L over all of them."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from easyllm.instruct.clean.tokens import same_key, tokens_of

_PERMUTATIONS, _BANDS, _SEED = 126, 42, 7
"""MinHash: bands of three. Two texts of ROUGE-L 0.7 share about 0.54 of their words, and are found with 0.999."""

_CHARACTERS = 0x110000


@dataclass(frozen=True)
class Nearest:
    """The earlier instruction that is most like another."""

    rouge_l: float
    instruction: str

    def as_json(self) -> dict[str, Any]:
        return {"rouge_l": round(self.rouge_l, 4), "instruction": self.instruction}


class Similar:
    """The instructions so far; ``nearest`` compares with every one of them, exactly.

    2 LCS / (m + n) is 1 - Indel distance / (m + n), which rapidfuzz computes for one text and thousands at a time
    when each word is written as one character. With more than ``minhash_above`` texts it is computed for those alone
    that MinHash thinks alike.
    """

    def __init__(self, minhash_above: int) -> None:
        self._minhash_above = minhash_above
        self._texts: list[str] = []
        self._spelled: list[str] = []
        self._lengths = array("q")
        self._letters: dict[str, str] = {}
        self._same: dict[str, int] = {}
        self._hashed: Any = None
        self._asked: tuple[str, int, Nearest | None] | None = None

    def __len__(self) -> int:
        return len(self._texts)

    def keep(self, text: str) -> None:
        """``text`` is one of them from now on."""
        spelled = self._spell(tokens_of(text))
        self._same.setdefault(same_key(text), len(self._texts))
        self._texts.append(text)
        self._spelled.append(spelled)
        self._lengths.append(len(spelled))
        if self._hashed is not None:
            self._hashed.insert(len(self._texts) - 1, _minhash(spelled))

    def same(self, text: str) -> str | None:
        """The first that has the same words, whatever its case, spaces, punctuation and width."""
        place = self._same.get(same_key(text))
        return None if place is None else self._texts[place]

    def nearest(self, text: str) -> Nearest | None:
        """The first of the most similar ones; None where nothing shares a word with it."""
        if self._asked and self._asked[:2] == (text, len(self._texts)):
            return self._asked[2]  # a filter and the reviewer's page ask the same
        spelled = self._spell(tokens_of(text))
        found = self._nearest(spelled) if spelled and self._texts else None
        self._asked = (text, len(self._texts), found)
        return found

    def _nearest(self, spelled: str) -> Nearest | None:
        import numpy
        from rapidfuzz.distance import Indel
        from rapidfuzz.process import cdist

        lengths = numpy.frombuffer(self._lengths, dtype=numpy.int64)
        among: Sequence[str] = self._spelled
        places = None
        if len(self._texts) > self._minhash_above:
            places = numpy.array(self._alike(spelled), dtype=numpy.int64)
            if not len(places):
                return None
            among, lengths = [self._spelled[place] for place in places], lengths[places]
        distances = cdist([spelled], among, scorer=Indel.distance, dtype=numpy.int64)[0]
        both = lengths + len(spelled)
        # LCS is whole and the division in float64: a pair of exactly 7 in 10 is 0.7 and not a hair more.
        scores = (both - distances) / both
        best = int(scores.argmax())
        if not scores[best]:
            return None
        return Nearest(float(scores[best]), self._texts[best if places is None else int(places[best])])

    def _alike(self, spelled: str) -> list[int]:
        """Places of the candidates, in their order; the index is built when it is first needed."""
        if self._hashed is None:
            from rensa import RMinHashLSH

            self._hashed = RMinHashLSH(threshold=0.5, num_perm=_PERMUTATIONS, num_bands=_BANDS)
            for place, one in enumerate(self._spelled):
                self._hashed.insert(place, _minhash(one))
        return sorted(set(self._hashed.query(_minhash(spelled))))

    def _spell(self, tokens: Sequence[str]) -> str:
        """One character a token. Past the 1,114,112 characters there are, a rare word may share one with another."""
        letters = self._letters
        return "".join(letters.setdefault(token, chr(len(letters) % _CHARACTERS)) for token in tokens)


def _minhash(spelled: str) -> Any:
    from rensa import RMinHash

    made = RMinHash(num_perm=_PERMUTATIONS, seed=_SEED)
    made.update(list(spelled))
    return made
