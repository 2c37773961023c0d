"""What one token says by itself: its name, and its true bytes, which may be half of a character."""

import json
from functools import lru_cache
from typing import Any


def text_of(tokenizer: Any, token: int) -> str:
    """As a decoder writes it alone; a special token shows its name."""
    return str(tokenizer.decode([token], clean_up_tokenization_spaces=False))


class TokenBytes:
    """The bytes of each token of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._byte_level = '"ByteLevel"' in decoder_of(tokenizer)
        self._byte_fallback = '"ByteFallback"' in decoder_of(tokenizer)

    def of(self, token: int) -> list[int]:
        """Its bytes; joined over an answer's tokens they are the answer's text in UTF-8."""
        if token in self._tokenizer.added_tokens_decoder:
            return list(text_of(self._tokenizer, token).encode())
        piece = str(self._tokenizer.convert_ids_to_tokens(token))
        if self._byte_level and all(letter in letters() for letter in piece):
            return [letters()[letter] for letter in piece]
        if self._byte_fallback and piece.startswith("<0x") and piece.endswith(">"):
            return [int(piece[3:-1], 16)]
        if self._byte_fallback:  # sentencepiece writes a space so, and a lone token's leading one is lost in decoding
            return list(piece.replace("\u2581", " ").encode())
        return list(text_of(self._tokenizer, token).encode())


def decoder_of(tokenizer: Any) -> str:
    """How a fast tokenizer turns tokens into text, as JSON; empty for a slow one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return json.dumps(json.loads(backend.to_str()).get("decoder")) if backend else ""


@lru_cache(maxsize=1)
def letters() -> dict[str, int]:
    """GPT-2's letter for each byte, the other way round: printable ones stand for themselves, the rest from 256 on."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + place): byte for place, byte in enumerate(rest)}
