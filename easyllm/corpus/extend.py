"""New tokens behind those a tokenizer has: every old id stays what it was."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from easyllm.core.errors import UserError
from easyllm.corpus import tokenizer_files
from easyllm.corpus.hard_strings import HARD_STRINGS
from easyllm.corpus.words import wrong_words


def extend(directory: Path, words: Sequence[str]) -> dict[str, int]:
    """Add ``words`` to the tokenizer.json of ``directory``, each as one token wherever a text has it. Their ids.

    Raises UserError CORPUS-021 for words that are one token already, CORPUS-005 where an id would move.
    """
    path = directory / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    there = [w for w in words if _is_one_token(tokenizer, w)]
    if there:
        raise UserError(wrong_words("CORPUS-021", there))
    before = tokenizer.get_vocab(with_added_tokens=True)
    plain = [text for text in HARD_STRINGS if not any(word in text for word in words)]
    ids = _ids(tokenizer, plain)
    tokenizer.add_tokens([AddedToken(word, normalized=False, special=False) for word in words])
    tokenizer.save(str(path))
    extended = Tokenizer.from_file(str(path))
    after, first = extended.get_vocab(with_added_tokens=True), max(before.values()) + 1
    added = {word: first + n for n, word in enumerate(words)}
    if after != before | added or _ids(extended, plain) != ids:
        raise UserError(tokenizer_files.unusable(directory, "its ids do not stay where they are when tokens are added"))
    return added


def _is_one_token(tokenizer: Tokenizer, word: str) -> bool:
    ids = tokenizer.encode(word, add_special_tokens=False).ids
    written = tokenizer.decode(ids, skip_special_tokens=False)  # of an unknown character this is the unknown token
    return tokenizer.token_to_id(word) is not None or (len(ids) == 1 and written == word)


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
