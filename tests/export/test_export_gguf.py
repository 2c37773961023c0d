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


def test_q4_k_m_gives_more_bits_where_llama_cpp_does() -> None:
    kind = quantise.Type
    assert quantise.chosen_type("output.weight", 512, 8, False) == kind.Q6_K
    assert quantise.chosen_type("token_embd.weight", 512, 8, False) == kind.Q4_K
    assert quantise.chosen_type("token_embd.weight", 576, 8, True) == kind.Q8_0  # 576 is no multiple of 256
    assert quantise.chosen_type("blk.3.attn_q.weight", 576, 8, True) == kind.Q5_0
    assert [n for n in range(8) if quantise.more_bits(n, 8)] == [0, 3, 6, 7]
    assert quantise.chosen_type("blk.1.ffn_down.weight", 512, 8, True) == kind.Q4_K
    assert quantise.chosen_type("blk.1.attn_qkv.weight", 512, 8, True) == kind.Q5_K
    assert quantise.chosen_type("blk.1.attn_q.weight", 48, 8, True) == kind.F16
