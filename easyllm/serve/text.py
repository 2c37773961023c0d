"""Token ids become text piece by piece: whole characters only, special tokens out, stop strings cut."""

from typing import Any

UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are not, or not yet, a character."""


class Detokenizer:
    """Text of a growing list of token ids. The pieces joined are the text of all ids decoded at once."""

    def __init__(self, tokenizer: Any, with_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._with_special = with_special
        self._ids: list[int] = []
        self._start = 0
        """Decoding starts here: the tokens before the last piece give the context that spaces depend on."""
        self._shown = 0
        """Ids before this one are in pieces that were handed out."""

    def add(self, token: int) -> str:
        """The text that ``token`` completes; empty while a character is cut across tokens."""
        self._ids.append(token)
        before, now = self._decode(self._start, self._shown), self._decode(self._start, len(self._ids))
        if now.endswith(UNFINISHED) or len(now) <= len(before):
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return now[len(before) :]

    def finish(self) -> str:
        """What was held back, broken characters as they are."""
        before, now = self._decode(self._start, self._shown), self._decode(self._start, len(self._ids))
        self._start = self._shown = len(self._ids)
        return now[len(before) :]

    def _decode(self, start: int, end: int) -> str:
        return decode(self._tokenizer, self._ids[start:end], self._with_special)


def decode(tokenizer: Any, ids: list[int], with_special: bool = False) -> str:
    """Text of ``ids``, spaces as the tokens have them; special tokens are none of it unless asked for."""
    text: str = tokenizer.decode(ids, skip_special_tokens=not with_special, clean_up_tokenization_spaces=False)
    return text


class StopStrings:
    """Finds the first of several strings in text that arrives in pieces, across their borders.

    With ``keep`` the found string stays at the end, as text-generation-inference has it, and nothing is held
    back; without, as the OpenAI API has it, it is cut off, so a possible beginning of it is held back.
    """

    def __init__(self, stops: tuple[str, ...], keep: bool) -> None:
        self._stops = stops
        self._keep = keep
        self._longest = max((len(stop) for stop in stops), default=0)
        self._held = ""
        """Cut: text not handed out yet. Keep: the end of what was, where a stop string may have begun."""

    def add(self, piece: str) -> tuple[str, bool]:
        """(text to hand out, whether a stop string was found)."""
        if not self._stops:
            return piece, False
        return self._add_kept(piece) if self._keep else self._add_cut(piece)

    def finish(self) -> str:
        """What is still held back."""
        held, self._held = self._held, ""
        return "" if self._keep else held

    def _add_cut(self, piece: str) -> tuple[str, bool]:
        text = self._held + piece
        found = [text.index(stop) for stop in self._stops if stop in text]
        if found:
            self._held = ""
            return text[: min(found)], True
        safe = len(text) - max(self._begun(text, stop) for stop in self._stops)
        self._held = text[safe:]
        return text[:safe], False

    def _add_kept(self, piece: str) -> tuple[str, bool]:
        text = self._held + piece
        ends = [text.index(stop) + len(stop) for stop in self._stops if stop in text]
        if ends:
            return text[len(self._held) : min(ends)], True
        self._held = text[-(self._longest - 1) :] if self._longest > 1 else ""
        return piece, False

    @staticmethod
    def _begun(text: str, stop: str) -> int:
        """How many characters at the end of ``text`` may be the beginning of ``stop``."""
        for length in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:length]):
                return length
        return 0
