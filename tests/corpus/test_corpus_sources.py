"""Where text may come from: columns, datasets on disk, several sources with weights; and the split of it."""

import json
import os
from collections.abc import Callable
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from easyllm.core.errors import UserError
from easyllm.core.stage import Result
from easyllm.corpus import pieces
from easyllm.corpus.checks import check
from easyllm.corpus.plan import plan
from easyllm.corpus.run import run
from tiny_pipeline import tiny_recipe

Run = Callable[..., tuple[Path, Result]]
SMALL = {"train": {"vocab_size": 400}}


def table_of(jsonl: Path) -> pyarrow.Table:
    return pyarrow.Table.from_pylist([json.loads(line) for line in jsonl.read_text("utf-8").splitlines()])


def write_arrow(path: Path, table: pyarrow.Table, rows_a_batch: int = 30) -> Path:
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_a_batch)
    return path


def save_to_disk(folder: Path, table: pyarrow.Table, files: int = 2) -> Path:
    """What ``datasets.Dataset.save_to_disk`` leaves, with a cache of earlier work beside it."""
    folder.mkdir(parents=True)
    rows = -(-table.num_rows // files)
    names = [f"data-{n:05d}-of-{files:05d}.arrow" for n in range(files)]
    for n, name in enumerate(names):
        write_arrow(folder / name, table.slice(n * rows, rows))
    write_arrow(folder / "cache-1a2b3c.arrow", table.slice(0, 7))
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "1a2b", "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text('{"features": {"text": {"dtype": "string", "_type": "Value"}}}')
    return folder


@pytest.fixture
def same_rows(tmp_path: Path, prose: Callable[..., Path]) -> list[str]:
    """The rows of a.jsonl in every shape that keeps columns."""
    table = table_of(prose("a.jsonl"))
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=30)
    large = table.set_column(1, "text", table["text"].cast(pyarrow.large_string()))
    parquet.write_table(large, tmp_path / "large.parquet", compression="zstd")
    coded = table.set_column(1, "text", table["text"].dictionary_encode())
    parquet.write_table(coded, tmp_path / "coded.parquet", row_group_size=70)
    write_arrow(tmp_path / "stream.arrow", table)
    with pyarrow.OSFile(str(tmp_path / "file.arrow"), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as file:
        file.write_table(table, max_chunksize=30)
    save_to_disk(tmp_path / "dataset", table)
    for name, part in (("one", table.slice(0, 90)), ("two", table.slice(90))):
        save_to_disk(tmp_path / "splits" / name, part)
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["one", "two"]}')
    return ["a.parquet", "stream.arrow", "file.arrow", "large.parquet", "coded.parquet", "dataset", "splits"]


@pytest.mark.parametrize("piece_bytes", [None, 30_000])
def test_parquet_arrow_and_datasets_on_disk_give_the_tokens_of_the_same_rows_in_jsonl(
    run_corpus: Run, same_rows: list[str], monkeypatch: pytest.MonkeyPatch, piece_bytes: int | None
) -> None:
    plain, _ = run_corpus(out="plain", input=["a.jsonl"], tokenizer=SMALL, workers=1)
    if piece_bytes:
        monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    for name in same_rows[:3] if piece_bytes else same_rows:
        out, result = run_corpus(out=f"{name}-out", input=[name], tokenizer=SMALL, workers=1)
        assert result.metrics["documents"] == 200, name
        for file in ("tokens.bin", "tokens.idx", "tokenizer/tokenizer.json"):
            assert (out / file).read_bytes() == (plain / file).read_bytes(), f"{name}: {file}"


def test_a_plan_knows_the_documents_of_columns(corpus_job: Callable[..., Any], same_rows: list[str]) -> None:
    for name in same_rows:
        assert plan(corpus_job(input=[name], tokenizer=SMALL)).figures["documents"] == 200, name


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
def test_a_missing_column_is_named_with_those_there_are(
    corpus_job: Callable[..., Any], same_rows: list[str], name: str
) -> None:
    (found,) = check(corpus_job(input=[name], text_key="txt"))
    assert found.code == "CORPUS-001"
    assert "it has: src, text, type, id, title" in found.what
    assert "nearest is `text`" in found.fix


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow"])
def test_a_column_that_holds_no_text_and_a_cell_without_one_are_refused(
    tmp_path: Path, corpus_job: Callable[..., Any], same_rows: list[str], name: str
) -> None:
    (found,) = check(corpus_job(input=[name], text_key="id"))
    assert (found.code, found.params["found"]) == ("CORPUS-002", "int64")
    table = pyarrow.table({"text": ["some text"] * 50 + [None] + ["more"] * 5})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=20)
    write_arrow(tmp_path / "stream.arrow", table, rows_a_batch=20)
    (found,) = check(corpus_job(input=[name]))
    assert (found.code, found.params["found"], found.line) == ("CORPUS-002", "null", 51)


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_a_broken_column_file_is_refused_by_name(
    tmp_path: Path, corpus_job: Callable[..., Any], same_rows: list[str], name: str, damage: str
) -> None:
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes({"cut": data[: len(data) // 2], "other": b'{"text": "x"}\n', "empty": b""}[damage])
    (found,) = check(corpus_job(input=[name]))
    assert (found.code, found.file) == ("ROWS-007", str(tmp_path / name))


def texts_with(word: str, count: int) -> list[str]:
    return [f"{word} number {n} is here, and it says {sha256(f'{word}{n}'.encode()).hexdigest()}" for n in range(count)]


@pytest.fixture
def two_sources(tmp_path: Path) -> dict[str, Any]:
    """Two files of prose, drawn from three to one."""
    for word, count in (("ship", 120), ("light", 60)):
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts_with(word, count))
        (tmp_path / f"{word}.jsonl").write_text(rows)
    sources = [{"source": [f"{word}.jsonl"], "weight": w, "name": word} for word, w in (("ship", 3), ("light", 1))]
    return {"input": sources, "tokenizer": {"train": {"vocab_size": 300}}}


def decoded(out: Path, prefix: str) -> list[str]:
    """The documents of one dataset, by Megatron's own reader."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(out / "tokenizer" / "tokenizer.json"))
    read = IndexedDataset(str(out / prefix))
    return [tokenizer.decode(read[n].tolist()[:-1]) for n in range(len(read))]


def test_each_source_and_part_of_the_split_has_its_dataset_and_no_document_is_lost(
    run_corpus: Run, two_sources: dict[str, Any]
) -> None:
    out, result = run_corpus(**two_sources, split={"train": 8, "valid": 1, "test": 1}, workers=1)
    record = result.records["tokens"]
    assert [(row["name"], row["weight"]) for row in record["sources"]] == [("ship", 3), ("light", 1)]
    for row, word, count in zip(record["sources"], ("ship", "light"), (120, 60), strict=True):
        assert row["train"] == f"tokens-{word}-train"
        parts = [decoded(out, row[part]) for part in ("train", "valid", "test")]
        assert sorted(chain(*parts)) == sorted(texts_with(word, count))
        assert list(map(len, parts)) == list(row["documents"].values())
        assert len(parts[0]) == pytest.approx(0.8 * count, abs=15)
        for part in ("train", "valid", "test"):
            assert os.path.getsize(out / f"{row[part]}.bin") == 2 * row["tokens"][part]
    assert record["tokens"] == sum(row["tokens"]["train"] for row in record["sources"])
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert sum(sum(row["tokens"].values()) for row in report["sources"]) == result.metrics["tokens"]
    assert "| ship | train | 75.00% |" in (out / "report.md").read_text("utf-8")


def test_megatron_builds_its_blend_from_the_record_and_draws_by_weight(
    run_corpus: Run, two_sources: dict[str, Any]
) -> None:
    from collections import OrderedDict
    from types import SimpleNamespace

    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    out, result = run_corpus(**two_sources, split={"train": 9, "valid": 1}, workers=1)
    rows, ledger = result.records["tokens"]["sources"], result.records["ledger"]
    weights = [row["weight"] for row in rows]
    blends = [([str(out / row[part]) for row in rows], weights) for part in ("train", "valid")]
    tokenizer = SimpleNamespace(
        vocab_size=ledger["tokenizer_size"], eod=ledger["eod_id"], pad=1, unique_identifiers=OrderedDict(name="test")
    )
    config = GPTDatasetConfig(
        random_seed=1, sequence_length=32, blend_per_split=[*blends, None], path_to_cache=None,
        tokenizer=tokenizer, reset_position_ids=False, reset_attention_mask=False, eod_mask_loss=False,
        num_dataset_builder_threads=1, create_attention_mask=False,
    )  # fmt: skip
    train, valid, test = BlendedMegatronDatasetBuilder(GPTDataset, [80, 8, 0], lambda: True, config).build()
    drawn = [int(train.dataset_index[n]) for n in range(80)]
    assert (drawn.count(0), drawn.count(1)) == (60, 20)
    assert len(train[0]["tokens"]) == len(valid[0]["tokens"]) == 32
    assert test is None


def test_the_split_depends_on_seed_and_text_and_equal_texts_stay_together(
    tmp_path: Path, corpus_job: Callable[..., Any]
) -> None:
    from dataclasses import replace

    texts = texts_with("ship", 100) * 2
    parts = {}
    for name, order, seed in (("a", texts, 1), ("b", texts[::-1], 1), ("c", texts, 2)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in order))
        job = corpus_job(
            out=name, input=[f"{name}.jsonl"], tokenizer={"train": {"vocab_size": 300}}, split={"train": 1, "valid": 1}
        )
        result = run(replace(job, seed=seed))
        record = result.records["tokens"]
        assert record["sources"][0]["train"] == "tokens-train"
        assert result.metrics["duplicate_documents"] == 100
        parts[name] = [set(decoded(job.out, f"tokens-{part}")) for part in ("train", "valid")]
        assert not parts[name][0] & parts[name][1]
        assert len(parts[name][0] | parts[name][1]) == 100
    assert parts["a"] == parts["b"] != parts["c"]


def test_a_part_without_a_document_is_refused_for_megatron_would_hang_on_it(
    tmp_path: Path, corpus_job: Callable[..., Any], two_sources: dict[str, Any]
) -> None:
    with pytest.raises(UserError) as caught:
        run(corpus_job(**two_sources, split={"train": 1, "test": 1e-9}))
    found = [(entry.code, entry.params["name"], entry.params["part"]) for entry in caught.value.problems]
    assert found == [("CORPUS-013", "ship", "test"), ("CORPUS-013", "light", "test")]


@pytest.mark.parametrize(
    ("entry", "key", "code"),
    [
        ("{source: [a.jsonl], weigth: 1, name: a}", "corpus.input.0.weigth", "RECIPE-003"),
        ("{source: [a.jsonl], name: a}", "corpus.input.0.weight", "RECIPE-004"),
        ("{source: [a.jsonl], weight: 0, name: a}", "corpus.input.0.weight", "RECIPE-006"),
        ("{source: [a.jsonl], weight: 1, name: ../a}", "corpus.input.0.name", "RECIPE-006"),
        ("{source: [b.jsonl], weight: 1, name: a}", "corpus.input.0.source", "INPUT-001"),
        ("7", "corpus.input.0", "RECIPE-006"),
    ],
)
def test_a_mistake_in_a_source_is_told_once_with_its_place(
    tmp_path: Path, easyllm: Any, entry: str, key: str, code: str
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "r.yaml").write_text(f"name: r\ncorpus:\n  input:\n    - {entry}\n")
    found = json.loads(easyllm("check", "r.yaml", "--json", expect=2).stdout)["errors"]
    assert (key, code, 4) in [(entry["key"], entry["code"], entry["line"]) for entry in found]
    assert len({entry["key"] for entry in found}) == len(found)


def test_unknown_tokens_and_single_bytes_are_counted(tmp_path: Path, run_corpus: Run) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    def model(name: str, **settings: Any) -> None:
        pieces_of = ["<unk>", "</s>", *(chr(n) for n in range(32, 127))]
        pieces_of += [f"<0x{byte:02X}>" for byte in range(256)] if settings.get("byte_fallback") else []
        made = Tokenizer(models.BPE({piece: n for n, piece in enumerate(pieces_of)}, [], unk_token="<unk>", **settings))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Split("\n", "isolated"), decoders.ByteFallback()
        made.add_special_tokens(["<unk>", "</s>"])
        (tmp_path / name).mkdir()
        made.save(str(tmp_path / name / "tokenizer.json"))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "<unk>"}
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps(config))

    model("unknown")
    model("fallback", byte_fallback=True)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "abc é 船"}) + "\n")
    for name, unknown, single in (("unknown", 2, 0), ("fallback", 0, 5)):
        out, _ = run_corpus(out=f"{name}-out", input=["a.jsonl"], tokenizer={"model": name})
        report = json.loads((out / "report.json").read_text("utf-8"))
        assert (report["unknown_tokens"], report["byte_fallback_tokens"]) == (unknown, single)
        assert "does not have: none" not in (out / "report.md").read_text("utf-8")


def test_ten_documents_are_drawn_the_same_whatever_the_order(tmp_path: Path, run_corpus: Run) -> None:
    texts = texts_with("ship", 50)
    drawn = []
    for name, order in (("a", texts), ("b", [*texts[::-1], *texts])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in order))
        out, _ = run_corpus(out=name, input=[f"{name}.jsonl"], tokenizer={"train": {"vocab_size": 300}})
        report = json.loads((out / "report.json").read_text("utf-8"))
        drawn.append([row["begins"] for row in report["drawn_documents"]])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 10
    assert set(drawn[0]) <= set(texts)


def test_the_run_says_how_many_steps_and_epochs_pretraining_makes_of_the_corpus(tmp_path: Path, easyllm: Any) -> None:
    recipe = tiny_recipe(tmp_path)
    said = easyllm("corpus", recipe).stdout
    document = json.loads(easyllm("corpus", recipe, "--json").stdout)["stages"][0]
    tokens, found = document["metrics"]["tokens"], document["pretraining"]
    assert found == {
        "steps": 12, "epochs": round(12 * 256 / tokens, 2), "tokens_per_step": 256,
        "steps_per_epoch": round(tokens / 256, 1),
    }  # fmt: skip
    assert f"12 steps of 256 tokens: {found['epochs']} epochs of it" in said
    (tmp_path / "alone.yaml").write_text(
        json.dumps({"name": "tiny", "corpus": json.loads(recipe.read_text())["corpus"]})
    )
    assert "pretraining" not in json.loads(easyllm("corpus", "alone.yaml", "--json").stdout)["stages"][0]
