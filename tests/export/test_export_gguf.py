"""A GGUF file says in llama.cpp what the model says in transformers, and one that does not is not published."""

from pathlib import Path
from typing import Any

import pytest

from easyllm.core.errors import StageFailed
from easyllm.export import checks, gguf_parity, quantise
from easyllm.export.gguf_files import architectures, converter
from tiny_tune import check, make_job, publish, write_base

ASKED: dict[str, Any] = {"model": "base", "layouts": [], "card": {"license": "mit"}}


@pytest.mark.slow
def test_every_gguf_file_is_proven_in_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_base(tmp_path / "base")
    manifest = publish(make_job(tmp_path, "export", ASKED | {"gguf": ["f16", "q4_k_m"]}))
    f16, q4 = manifest.records["parity"]
    assert f16["holds"]
    assert q4["holds"]
    assert f16["mean_divergence"] < 1e-3
    assert f16["greedy_same"] == f16["greedy_tokens"]
    out = tmp_path / "run" / "export"
    assert sorted(p.name for p in (out / "hub").glob("*.gguf")) == ["tiny-f16.gguf", "tiny-q4_k_m.gguf"]
    assert (out / "hub" / "tiny-f16.gguf").samefile(out / "gguf" / "tiny-f16.gguf")
    monkeypatch.setitem(gguf_parity.BOUNDS, "f16", (0.0, 1.0))
    with pytest.raises(StageFailed, match=r"EXPORT-006.*tiny-f16.gguf"):
        publish(make_job(_again(tmp_path), "export", ASKED | {"gguf": ["f16"]}))
    assert not (tmp_path / "again" / "run" / "export").exists()


def _again(folder: Path) -> Path:
    write_base(folder / "again" / "base")
    return folder / "again"


def test_an_architecture_that_llama_cpp_does_not_know_is_refused_before_any_work(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    text = (base / "config.json").read_text()
    (base / "config.json").write_text(text.replace("LlamaForCausalLM", "OddForCausalLM"))
    assert [p.code for p in check(make_job(tmp_path, "export", ASKED | {"gguf": ["f16"]}))] == ["EXPORT-010"]
    script = converter()
    assert script is not None
    known = {"LlamaForCausalLM", "Qwen3ForCausalLM", "GPT2LMHeadModel", "BloomForCausalLM", "MistralForCausalLM"}
    assert known <= architectures(script)


def test_without_llama_cpp_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_base(tmp_path / "base")
    monkeypatch.setattr(checks, "find_spec", lambda _: None)
    (found,) = check(make_job(tmp_path, "export", ASKED | {"gguf": ["f16"]}))
    assert found.code == "EXPORT-013"
    assert "xllamacpp" in found.what


def test_a_tokenizer_the_converter_cannot_say_ends_in_its_own_words(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    path = base / "tokenizer.json"
    path.write_text(
        path.read_text().replace('"pre_tokenizer":{"type":"ByteLevel"', '"pre_tokenizer":{"type":"Nothing"')
    )
    path.write_text(path.read_text().replace('"type": "BPE"', '"type": "Nothing"'))
    (tmp_path / "scratch").mkdir()
    from easyllm.export.gguf_files import convert

    with pytest.raises(StageFailed, match="EXPORT-011"):
        convert(base, tmp_path / "x.gguf", "f16", {"eos": 1, "eot": None})


def test_a_file_that_llama_cpp_cannot_run_ends_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF, or so it says")
    asked: dict[str, Any] = {"gguf": str(tmp_path / "x.gguf"), "threads": 1, "vocabulary": 4, "greedy": [1]}
    asked |= {"ids": [[1, 2]], "positions": [[0]], "texts": [], "conversations": [], "greedy_tokens": 1}
    with pytest.raises(StageFailed, match="EXPORT-012"):
        gguf_parity._ask(asked, tmp_path)


@pytest.mark.parametrize(
    ("shape", "tensor", "wanted"),
    [  # what llama_model_quantize of llama.cpp made of small models of these shapes, all tensors alike byte for byte
        (quantise.Shape(9, True), ("token_embd.weight", 256), "Q6_K"),
        (quantise.Shape(9, True), ("token_embd.weight", 576), "Q8_0"),  # 576 is no multiple of 256
        (quantise.Shape(9, False), ("token_embd.weight", 256), "Q4_K"),
        (quantise.Shape(9, False), ("output.weight", 192), "Q8_0"),
        (quantise.Shape(9, True), ("blk.3.attn_q.weight", 192), "Q5_0"),
        (quantise.Shape(9, True), ("blk.3.attn_v.weight", 192), "Q8_0"),
        (quantise.Shape(9, True), ("blk.1.ffn_down.weight", 512), "Q4_K"),
        (quantise.Shape(9, True), ("blk.8.ffn_down.weight", 512), "Q6_K"),
        (quantise.Shape(9, True, "gpt2"), ("blk.0.attn_qkv.weight", 256), "Q6_K"),
        (quantise.Shape(9, True, "bloom"), ("blk.1.attn_qkv.weight", 256), "Q4_K"),
        (quantise.Shape(9, False, "llama", 8, 4), ("blk.1.attn_v.weight", 256), "Q8_0"),
        (quantise.Shape(9, False, "llama", 8, 4), ("blk.1.attn_k.weight", 256), "Q8_0"),
        (quantise.Shape(9, False, "llama", 8, 4), ("blk.1.attn_output.weight", 256), "Q5_K"),
        (quantise.Shape(9, False, "llama", 8, 4), ("blk.0.ffn_down_exps.weight", 512), "Q6_K"),
        (quantise.Shape(80, False, "llama", 0, 8), ("blk.10.attn_v.weight", 256), "Q5_K"),
        (quantise.Shape(80, False, "llama", 0, 8), ("blk.9.attn_v.weight", 256), "Q6_K"),
        (quantise.Shape(9, True), ("blk.1.attn_q.weight", 48), "F16"),
    ],
)
def test_q4_k_m_chooses_what_llama_cpp_chooses(shape: quantise.Shape, tensor: tuple[str, int], wanted: str) -> None:
    assert quantise.chosen_type(*tensor, shape).name == wanted


def test_q4_k_m_gives_some_layers_more_bits() -> None:
    assert [n for n in range(8) if quantise.more_bits(n, 8)] == [0, 3, 6, 7]


@pytest.mark.slow
def test_a_gpt2_that_does_not_say_n_ctx_becomes_a_gguf_with_its_length(tmp_path: Path) -> None:
    import gguf

    from easyllm.export.gguf_files import convert

    base = write_base(tmp_path / "base", "gpt2")
    assert "n_ctx" not in (base / "config.json").read_text()  # as transformers 5 writes it
    convert(base, tmp_path / "x.gguf", "f16", {"eos": 1, "eot": None})
    assert gguf.GGUFReader(tmp_path / "x.gguf").fields["gpt2.context_length"].contents() == 256
