"""Tokenizers that come as other files than tokenizer.json, made into one: GPT-2's two files, SentencePiece's model."""

import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from easyllm.core.errors import UserError, problem
from easyllm.corpus import tokenizer_files
from easyllm.corpus.hard_strings import HARD_STRINGS
from easyllm.corpus.vocabulary import END_OF_TEXT

SPACE = "▁"
"""What SentencePiece writes for a space."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
UNIGRAM, BPE = 1, 2

NEVER = -1000.0
"""Score of a piece that no text may give; under the sum of any pieces for its characters, where all are known."""

TIE = 1e-3
"""Two ways to cut a text whose log-probabilities differ by less are one to sentencepiece's 32-bit sums."""

PROVEN_SYMBOLS = 50


def from_gpt2(vocabulary: Path, merges: Path, out: Path) -> None:
    """GPT-2's vocab.json and merges.txt. Raises UserError CORPUS-005 and CORPUS-006."""
    home = vocabulary.parent
    try:
        model = models.BPE.from_file(str(vocabulary), str(merges))
    except Exception as error:  # tokenizers raises no other type
        raise UserError(tokenizer_files.unusable(home, f"{vocabulary.name}, {merges.name}: {error}")) from error
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = tokenizer_files.end_token(home) or END_OF_TEXT
    if tokenizer.token_to_id(end) is None:
        raise UserError(tokenizer_files.no_end(home))
    tokenizer.add_special_tokens([AddedToken(end, normalized=False, special=True)])
    tokenizer.save(str(out / "tokenizer.json"))
    tokenizer_files.write_config(out, end=end)


def from_sentencepiece(path: Path, out: Path) -> None:
    """A SentencePiece model. Raises UserError CORPUS-005, CORPUS-006, and CORPUS-022 where an id would be another.

    What sentencepiece itself does is the measure: its ids for hard strings are compared, and where a text can be cut
    in two equally likely ways (unigram models only), either is right. A model that maps characters first (nmt_nfkc and
    its like) is held to this for composed text (NFC): tokenizers' own code for such maps misses some decomposed
    sequences, Hangul's among them.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise UserError(tokenizer_files.unusable(path, f"no SentencePiece model: {error}")) from error
    trained = proto.trainer_spec
    if trained.model_type not in (UNIGRAM, BPE) or not proto.pieces:
        raise UserError(tokenizer_files.unusable(path, "no SentencePiece model of the kinds unigram and BPE"))
    control = {piece.piece for piece in proto.pieces if piece.type == CONTROL}
    begin, own_end = (piece if piece in control else None for piece in (trained.bos_piece, trained.eos_piece))
    end = tokenizer_files.end_token(path.parent) or own_end
    tokenizer = _converted(proto)
    if end is None or tokenizer.token_to_id(end) is None:
        raise UserError(tokenizer_files.no_end(path))
    processor = SentencePieceProcessor(model_proto=proto.SerializeToString())
    maps = bool(proto.normalizer_spec.precompiled_charsmap)
    strings = [text for text in HARD_STRINGS if not maps or unicodedata.is_normalized("NFC", text)]
    symbols = [piece.piece for piece in proto.pieces if piece.type == USER_DEFINED][:PROVEN_SYMBOLS]
    prove(path, processor, tokenizer, [*strings, *(f"{symbol} a{symbol}b {symbol}" for symbol in symbols)])
    tokenizer.save(str(out / "tokenizer.json"))
    tokenizer_files.write_config(out, end=end, begin=begin, unknown=trained.unk_piece)


def prove(path: Path, processor: Any, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    """Raises UserError CORPUS-022 at the first of ``texts`` whose ids are not sentencepiece's."""
    tokenizer.encode_special_tokens = True
    for text in texts:
        theirs, ours = processor.encode(text), tokenizer.encode(text, add_special_tokens=False).ids
        tie = abs(sum(map(processor.get_score, theirs)) - sum(map(processor.get_score, ours))) < TIE
        if theirs != ours and not (tie and processor.decode(theirs) == processor.decode(ours)):
            raise UserError(
                problem(
                    "CORPUS-022", stage="corpus", key="corpus.tokenizer.model",
                    path=str(path), text=ascii(text[:60]), theirs=len(theirs), ours=len(ours),
                )
            )  # fmt: skip


def _converted(proto: Any) -> Tokenizer:
    trained, normal = proto.trainer_spec, [piece for piece in proto.pieces if piece.type in (NORMAL, USER_DEFINED)]
    tokenizer = Tokenizer(_bpe(proto, normal) if trained.model_type == BPE else _unigram(proto))
    tokenizer.normalizer = normalizers.Sequence(_normalizers(proto.normalizer_spec))
    if not any(a != SPACE == b for piece in normal for a, b in pairwise(piece.piece)):
        # No piece goes on behind a word, so words can be encoded one by one: the same ids, many times faster.
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"{SPACE}+[^{SPACE}]*|[^{SPACE}]+"), "isolated")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            *([decoders.ByteFallback()] if trained.byte_fallback else []),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if proto.normalizer_spec.add_dummy_prefix else []),
        ]
    )
    for piece in proto.pieces:
        if piece.type in (UNKNOWN, CONTROL):
            tokenizer.add_special_tokens([AddedToken(piece.piece, normalized=False, special=True)])
        elif piece.type == USER_DEFINED:
            tokenizer.add_tokens([AddedToken(piece.piece, normalized=False, special=False)])
    return tokenizer


def _bpe(proto: Any, normal: Sequence[Any]) -> models.BPE:
    """sentencepiece merges any two pieces that make a piece, the best score first; here each such pair is a merge."""
    ids = {piece.piece: n for n, piece in enumerate(proto.pieces)}
    scores = {piece.piece: piece.score for piece in normal}
    pairs = [
        (-score, ids[text[:at]], ids[text[at:]], text[:at], text[at:])
        for text, score in scores.items()
        for at in range(1, len(text))
        if text[:at] in scores and text[at:] in scores
    ]
    return models.BPE(
        vocab=ids, merges=[(left, right) for *_, left, right in sorted(pairs)],
        unk_token=proto.trainer_spec.unk_piece, fuse_unk=True, byte_fallback=proto.trainer_spec.byte_fallback,
    )  # fmt: skip


def _unigram(proto: Any) -> models.Unigram:
    """Control pieces are never found in a text by sentencepiece; tokenizers has no such kind, so they get no chance."""
    scores = [(p.piece, p.score if p.type in (NORMAL, USER_DEFINED) else NEVER) for p in proto.pieces]
    return models.Unigram(scores, unk_id=proto.trainer_spec.unk_id, byte_fallback=proto.trainer_spec.byte_fallback)


def _normalizers(spec: Any) -> list[Any]:
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return [*steps, normalizers.Replace(" ", SPACE)]
