"""Tokenizers that come as other files, and words added to one: the ids are those that their own library gives."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import sentencepiece
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from easyllm.core.errors import UserError
from easyllm.core.stage import Result
from easyllm.corpus.checks import check
from easyllm.corpus.hard_strings import HARD_STRINGS

Run = Callable[..., tuple[Path, Result]]
Maker = Callable[..., Any]
SMALL = {"train": {"vocab_size": 400}}
OF_LLAMA = {
    "model_type": "bpe", "byte_fallback": True, "split_digits": True, "allow_whitespace_only_pieces": True,
    "remove_extra_whitespaces": False, "normalization_rule_name": "identity",
}  # fmt: skip


@pytest.fixture
def piece_model(tmp_path: Path, prose: Callable[..., Path]) -> Callable[..., Path]:
    """``piece_model(model_type="bpe", ...)``: a SentencePiece model trained on the prose of a.jsonl."""

    def make(**options: Any) -> Path:
        text = tmp_path / "text.txt"
        rows = prose("a.jsonl").read_text("utf-8").splitlines()
        text.write_text("\n".join(json.loads(row)["text"] for row in rows), "utf-8")
        # Without < and > a unigram model's <s> could not be told from a text that quotes it, and would be refused.
        defaults = {"required_chars": "</>", "vocab_size": 500, "minloglevel": 2, "num_threads": 1}
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=str(tmp_path / "pieces"), **defaults | options
        )
        return tmp_path / "pieces.model"

    return make


def documents(out: Path) -> list[list[int]]:
    """The ids of each document, its end token left out."""
    sizes = numpy.fromfile(out / "tokens.idx", "int32", offset=34, count=-1)
    count = int(numpy.fromfile(out / "tokens.idx", "int64", offset=18, count=1)[0])
    ids = numpy.fromfile(out / "tokens.bin", "uint16")
    ends = numpy.cumsum(sizes[:count])
    return [ids[end - size : end - 1].tolist() for end, size in zip(ends, sizes[:count], strict=True)]


@pytest.mark.parametrize(
    "options",
    [
        OF_LLAMA,
        {"model_type": "bpe"},
        {"model_type": "unigram", "vocab_size": 250},
        {"model_type": "unigram", "byte_fallback": True},
        OF_LLAMA | {"add_dummy_prefix": False, "user_defined_symbols": ["<think>", "灯塔"]},
    ],
    ids=["llama 2", "bpe of default settings", "unigram", "unigram with bytes", "symbols of the user"],
)
def test_a_sentencepiece_model_becomes_a_fast_tokenizer_with_its_own_ids(
    tmp_path: Path, run_corpus: Run, piece_model: Callable[..., Path], options: dict[str, Any]
) -> None:
    path = piece_model(**options)
    out, result = run_corpus(input=["a.jsonl"], tokenizer={"model": path.name})
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    texts = [json.loads(line)["text"] for line in (tmp_path / "a.jsonl").open(encoding="utf-8")]
    assert documents(out) == theirs.encode(texts)
    ledger = result.records["ledger"]
    assert (ledger["tokenizer_size"], ledger["eod"], ledger["eod_id"]) == (len(theirs), "</s>", theirs.eos_id())
    loaded = AutoTokenizer.from_pretrained(out / "tokenizer")
    english = "The lighthouse keeper counts 12 ships."
    assert loaded.decode(loaded.encode(english)) == english == theirs.decode(theirs.encode(english))
    # The same file in a directory, as models ship it.
    home = tmp_path / "model"
    home.mkdir()
    path.rename(home / "tokenizer.model")
    again, _ = run_corpus(out="again", input=["a.jsonl"], tokenizer={"model": "model"})
    assert documents(again) == documents(out)


def test_a_sentencepiece_model_whose_ids_cannot_be_kept_is_refused(
    tmp_path: Path, corpus_job: Maker, run_corpus: Run, piece_model: Callable[..., Path]
) -> None:
    path = piece_model(**OF_LLAMA, user_defined_symbols=["<think>"])  # its spaces before symbols are beyond tokenizers
    with pytest.raises(UserError, match="CORPUS-022") as caught:
        run_corpus(input=["a.jsonl"], tokenizer={"model": path.name})
    assert "<think>" in caught.value.problems[0].what
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 50)
    with pytest.raises(UserError, match="CORPUS-005"):
        run_corpus(out="cut", input=["a.jsonl"], tokenizer={"model": path.name})
    words = piece_model(model_type="word")
    with pytest.raises(UserError, match="unigram and BPE"):
        run_corpus(out="words", input=["a.jsonl"], tokenizer={"model": words.name})
    endless = piece_model(model_type="bpe", eos_id=-1)
    with pytest.raises(UserError, match="CORPUS-006"):
        run_corpus(out="endless", input=["a.jsonl"], tokenizer={"model": endless.name})


def test_the_two_files_of_gpt2_give_the_ids_that_they_were_made_with(
    tmp_path: Path, corpus_job: Maker, run_corpus: Run, prose: Callable[..., Path]
) -> None:
    prose("a.jsonl")
    trained, _ = run_corpus(out="trained", input=["a.jsonl"], tokenizer=SMALL)
    model = json.loads((trained / "tokenizer" / "tokenizer.json").read_text("utf-8"))["model"]
    home = tmp_path / "gpt2"
    home.mkdir()
    (home / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    (home / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in model["merges"]), "utf-8")
    job = {"input": ["a.jsonl"], "tokenizer": {"model": "gpt2"}}
    out, result = run_corpus(**job)
    assert documents(out) == documents(trained)
    assert result.records["engine"]["engine"] == "tiktoken"
    assert result.records["ledger"]["eod"] == "<|endoftext|>"
    assert AutoTokenizer.from_pretrained(out / "tokenizer").eos_token_id == result.records["ledger"]["eod_id"]
    # Another class splits text otherwise, and which way is not in the files.
    (home / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    assert [found.code for found in check(corpus_job(**job))] == ["CORPUS-005"]
    (home / "tokenizer_config.json").write_text('{"eos_token": "</end>"}')
    with pytest.raises(UserError, match="CORPUS-006"):
        run_corpus(out="endless", **job)
    (home / "merges.txt").write_text("no merges at all\n")
    with pytest.raises(UserError, match="CORPUS-005"):
        run_corpus(out="spoilt", **job)


@pytest.mark.parametrize("source", ["trained", "taken over", "sentencepiece"])
def test_added_words_are_one_token_and_every_old_id_stays(
    tmp_path: Path, run_corpus: Run, piece_model: Callable[..., Path], source: str
) -> None:
    path = piece_model(**OF_LLAMA)
    first = {"model": path.name, "train": None} if source == "sentencepiece" else SMALL
    plain, before = run_corpus(out="plain", input=["a.jsonl"], tokenizer=first)
    (tmp_path / "words.txt").write_text("灯塔\n\nlighthouse keeper\n", "utf-8")
    base = {"train": SMALL["train"], "model": None} if source == "trained" else {"train": None, "model": "plain"}
    out, after = run_corpus(input=["a.jsonl"], tokenizer=base | {"extend": ["<tool>"], "extend_from": "words.txt"})
    old, new = (Tokenizer.from_file(str(at / "tokenizer" / "tokenizer.json")) for at in (plain, out))
    size = before.records["ledger"]["tokenizer_size"]
    added = {"<tool>": size, "灯塔": size + 1, "lighthouse keeper": size + 2}
    assert new.get_vocab() == old.get_vocab() | added
    assert after.records["ledger"]["tokenizer_size"] == size + 3
    assert after.records["ledger"]["special"] == before.records["ledger"]["special"]
    untouched = [text for text in HARD_STRINGS if not any(word in text for word in added)]
    assert [new.encode(text).ids for text in untouched] == [old.encode(text).ids for text in untouched]
    texts = [json.loads(line)["text"] for line in (tmp_path / "a.jsonl").open(encoding="utf-8")]
    for text, ids in zip(texts, documents(out), strict=True):
        assert [ids.count(id) for id in added.values()] == [text.count(word) for word in added]
    loaded = AutoTokenizer.from_pretrained(out / "tokenizer")
    assert loaded.convert_tokens_to_ids(list(added)) == list(added.values())
    assert after.records["engine"]["engine"] == before.records["engine"]["engine"]


def test_words_that_are_tokens_already_or_written_twice_are_refused(
    tmp_path: Path, corpus_job: Maker, run_corpus: Run, prose: Callable[..., Path]
) -> None:
    prose("a.jsonl")
    for words in (["a", "x", "a"], ["", "x"]):
        (found,) = check(corpus_job(input=["a.jsonl"], tokenizer=SMALL | {"extend": words}))
        assert found.code == "CORPUS-020"
    with pytest.raises(UserError) as caught:
        run_corpus(input=["a.jsonl"], tokenizer=SMALL | {"extend": ["<|pad|>", " the", "new", "x"]})
    (only,) = caught.value.problems
    assert (only.code, only.params["count"]) == ("CORPUS-021", 3)
    assert '"<|pad|>", " the", "x"' in only.what


def test_a_tokenizer_trained_here_cuts_chinese_and_digits_into_pieces_that_come_again(
    tmp_path: Path, run_corpus: Run, prose: Callable[..., Path]
) -> None:
    prose("a.jsonl")
    out, _ = run_corpus(input=["a.jsonl"], tokenizer=SMALL)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer" / "tokenizer.json"))
    text = "第 1234567 艘船在清晨离开港口，灯塔的光慢慢熄灭。"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    assert len(ids) < len(text.encode()) / 2  # merged, not bytes
    assert not any(tokenizer.id_to_token(id) in ("第Ġ", "。Ġ") for id in ids)
