"""Foreign checkpoints that must not be believed: nothing in them runs, and what does not fit is refused by name."""

import os
import pickle
import zipfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from easyllm.convert.foreign import open_checkpoint
from easyllm.convert.megatron_args import architecture_of_arguments, arguments_of
from easyllm.convert.safe_pickle import Inert, read_pickle
from easyllm.convert.shapes import shapes
from easyllm.convert.torch_file import open_torch_file
from easyllm.core.errors import UserError
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.megatron.files import SAVED
from tiny_megatron import run_python

LLAMA = Architecture(
    family="llama", layers=2, hidden=16, heads=4, kv_heads=2, head_dim=4, ffn_hidden=24, norm="RMSNorm",
    norm_epsilon=1e-5, positions="rope", rope_theta=10000.0, max_positions=32, tie_embeddings=False, biases=False,
    gated=True, activation="silu", init_std=0.02, dropout=0.0, tokenizer_size=100, padded_vocabulary=128,
    tensor_parallel=1,
)  # fmt: skip
GPT2 = replace(
    LLAMA, family="gpt2", kv_heads=4, ffn_hidden=64, norm="LayerNorm", positions="learned_absolute", rope_theta=None,
    tie_embeddings=True, biases=True, gated=False, activation="gelu_tanh",
)  # fmt: skip
BEFORE_CORE = {
    "embedding.": "language_model.embedding.", "decoder.": "language_model.encoder.",
    "output_layer.": "language_model.output_layer.", "self_attention.linear_qkv": "self_attention.query_key_value",
    "self_attention.linear_proj": "self_attention.dense", "linear_fc1": "dense_h_to_4h", "linear_fc2": "dense_4h_to_h",
    ".pre_mlp_layernorm": ".post_attention_norm", ".input_layernorm": ".input_norm", ".final_layernorm": ".final_norm",
}  # fmt: skip


class Evil:
    """Its pickle makes a file when it is read."""

    def __init__(self, victim: Path) -> None:
        self._victim = victim

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._victim),)


def arguments(a: Architecture = LLAMA, **changes: Any) -> Namespace:
    said = arguments_of(a)
    assert said is not None
    return Namespace(**{**vars(said), **changes})


def tensors(a: Architecture = LLAMA) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(shape) for name, shape in shapes(a).items()}


def save(directory: Path, model: dict[str, Any], place: str = "mp_rank_00", **plain: Any) -> Path:
    (directory / place).mkdir(parents=True)
    values = {"args": arguments(), "checkpoint_version": 3.0, "iteration": 5, "model": model} | plain
    torch.save(values, directory / place / "model_optim_rng.pt")
    return directory


def test_reading_a_pickle_that_would_run_a_command_runs_nothing(tmp_path: Path) -> None:
    victim = tmp_path / "made"
    found = read_pickle(pickle.dumps({"evil": Evil(victim), "good": [1, Namespace(a=2)]}))
    assert isinstance(found["evil"], Inert)
    assert (found["good"][0], found["good"][1].a) == (1, 2)
    save(tmp_path / "checkpoint", tensors(), args=arguments(callback=Evil(victim)))
    opened = open_checkpoint(tmp_path / "checkpoint")
    assert torch.equal(opened.weights.read("output_layer.weight"), tensors()["output_layer.weight"])
    assert not victim.exists()
    pickle.loads(pickle.dumps(Evil(victim)))  # and it is evil
    assert victim.exists()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "builtins.getattr", "os.system", "torch.load", "torch.storage._load_from_bytes"]
)
def test_no_name_in_a_pickle_becomes_a_function_that_acts(name: str) -> None:
    module, _, function = name.rpartition(".")
    found = read_pickle(f"c{module}\n{function}\n(S'1 + 1'\ntR.".encode())
    assert isinstance(found, Inert)
    assert found.arguments == ("1 + 1",)


def test_tensors_of_every_kind_are_read_as_torch_wrote_them(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32)
    kept = {
        "whole": base.reshape(2, 3, 4), "transposed": base.reshape(4, 6).t(), "part": base.reshape(4, 6)[1:3, 2:5],
        "bf16": base.bfloat16(), "half": base.half(), "ids": base.long(), "flags": base > 3,
        "scalar": torch.tensor(3.5), "empty": torch.empty(0, 4), "parameter": torch.nn.Parameter(base),
    }  # fmt: skip
    torch.save(kept, tmp_path / "kept.pt")
    found = open_torch_file(tmp_path / "kept.pt")
    for name, wanted in kept.items():
        assert torch.equal(found[name].read(), wanted), name
        assert (found[name].shape, found[name].dtype) == (tuple(wanted.shape), wanted.dtype)
    assert torch.equal(found["transposed"][2].read(), kept["transposed"][2])


def test_names_before_megatron_core_are_understood(tmp_path: Path) -> None:
    wanted, old = tensors(GPT2), {}
    for name, tensor in wanted.items():
        for new, before in BEFORE_CORE.items():
            name = name.replace(new, before, 1)
        old[name] = tensor
    nested: dict[str, Any] = {"language_model": {"embedding": {}, "encoder": {}}}
    for name, tensor in old.items():
        _, part, rest = name.split(".", 2)
        nested["language_model"][part][rest] = tensor
    nested["word_embeddings_for_head"] = {"weight": wanted["embedding.word_embeddings.weight"]}
    opened = open_checkpoint(save(tmp_path, nested, args=arguments(GPT2)))
    assert opened.architecture.family == "gpt2"
    assert sorted(opened.weights.names()) == sorted(wanted)
    assert all(torch.equal(opened.weights.read(name), tensor) for name, tensor in wanted.items())


def test_four_ranks_of_uneven_stages_are_put_together(tmp_path: Path) -> None:
    a = replace(LLAMA, layers=3)
    wanted = tensors(a)
    for stage, layers in enumerate(([0], [1, 2])):
        for rank in range(2):
            model = {n: _part(n, t, rank) for n, t in wanted.items() if stage == _stage(n)}
            renamed = {_local(n, layers[0]): t for n, t in model.items()}
            save(tmp_path, renamed, f"mp_rank_{rank:02d}_{stage:03d}", args=arguments(a))
    opened = open_checkpoint(tmp_path)
    assert all(torch.equal(opened.weights.read(name), tensor) for name, tensor in wanted.items())


def _stage(name: str) -> int:
    return 0 if name.startswith(("embedding", "decoder.layers.0.")) else 1


def _local(name: str, first: int) -> str:
    parts = name.split(".")
    return ".".join(str(int(p) - first) if p.isdigit() else p for p in parts)


def _part(name: str, whole: torch.Tensor, rank: int) -> torch.Tensor:
    if name.endswith(("linear_proj.weight", "linear_fc2.weight")):
        return whole.chunk(2, 1)[rank].clone()
    if name.endswith("linear_fc1.weight"):
        return torch.cat([half.chunk(2)[rank] for half in whole.chunk(2)])
    return whole.clone() if "norm" in name else whole.chunk(2)[rank].clone()


def no_folder(path: Path) -> Path:
    path.mkdir()
    return path


def cut_file(path: Path) -> Path:
    file = save(path, tensors()) / "mp_rank_00" / "model_optim_rng.pt"
    file.write_bytes(file.read_bytes()[:-2000])
    return path


def missing_rank(path: Path) -> Path:
    return save(path, tensors(), "mp_rank_01")


def gone_iteration(path: Path) -> Path:
    (no_folder(path) / "latest_checkpointed_iteration.txt").write_text("700")
    return path


def torchscript(path: Path) -> Path:
    file = save(path, tensors()) / "mp_rank_00" / "model_optim_rng.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("code/model.py", "import os")
    return path


REFUSED: dict[str, tuple[str, str, Callable[[Path], Path]]] = {
    "no checkpoint": ("CONVERT-020", "neither .metadata", no_folder),
    "file cut": ("CONVERT-021", "not whole", cut_file),
    "rank missing": ("CONVERT-021", "no model_optim_rng.pt of mp_rank_00", missing_rank),
    "iteration gone": ("CONVERT-021", "names 700", gone_iteration),
    "a program": ("CONVERT-021", "not one of torch.save", torchscript),
    "old order": ("CONVERT-022", "checkpoint_version 1.0", lambda p: save(p, tensors(), checkpoint_version=1.0)),
    "no arguments": ("CONVERT-023", "no arguments", lambda p: save(p, tensors(), args=None)),
    "experts": ("CONVERT-024", "num_experts is 8", lambda p: save(p, tensors(), args=arguments(num_experts=8))),
    "yarn": (
        "CONVERT-024", "position_embedding_type is yarn",
        lambda p: save(p, tensors(), args=arguments(position_embedding_type="yarn")),
    ),
    "norms around one": (
        "CONVERT-025", "centered_norm True", lambda p: save(p, tensors(), args=arguments(apply_layernorm_1p=True)),
    ),
    "wrong shape": (
        "CONVERT-026", "linear_fc2.weight is [16, 24], not [16, 32]",
        lambda p: save(p, tensors(), args=arguments(ffn_hidden_size=32)),
    ),
    "layers missing": (
        "CONVERT-026", "decoder.layers.2.input_layernorm.weight is missing",
        lambda p: save(p, tensors(), args=arguments(num_layers=3)),
    ),
    "unknown tensor": (
        "CONVERT-026", "surprise is not known", lambda p: save(p, tensors() | {"surprise": torch.ones(1)}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_refused_by_name(tmp_path: Path, name: str) -> None:
    code, told, make = REFUSED[name]
    path = make(tmp_path / "checkpoint")
    with pytest.raises(UserError) as caught:
        open_checkpoint(path)
    assert caught.value.problems[0].code == code
    assert told in str(caught.value)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    save(tmp_path, tensors())
    with pytest.raises(UserError, match=r"CONVERT-027 .* gives 129 ids, the embedding has 128 rows"):
        open_checkpoint(tmp_path, tokenizer_size=129)


def test_without_a_word_on_the_vocabulary_every_row_is_kept_and_that_is_said(tmp_path: Path) -> None:
    opened = open_checkpoint(save(tmp_path, tensors(), args=arguments(vocab_size=None)))
    assert opened.architecture.tokenizer_size == 128
    assert "all 128 vocabulary rows are kept" in " ".join(opened.inferred)


def test_our_own_record_is_believed_before_the_arguments(tmp_path: Path) -> None:
    own = {"architecture": replace(LLAMA, rope_theta=7.0).as_record(), "step": 9}
    opened = open_checkpoint(save(tmp_path, tensors(), **{SAVED: own}))
    assert (opened.architecture.rope_theta, opened.step, opened.inferred) == (7.0, 9, [])


LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip


@pytest.mark.parametrize(
    "a",
    [
        LLAMA, GPT2, replace(LLAMA, rope_scaling=LLAMA3), replace(LLAMA, family="mistral", window=9),
        replace(LLAMA, family="qwen2", qkv_bias=True), replace(LLAMA, family="qwen3", qk_norm=True, head_dim=8),
        replace(LLAMA, rope_scaling={"rope_type": "linear", "factor": 2.0}),
        replace(GPT2, family="gpt_neox", positions="rope", rope_theta=10000.0, rope_share=0.25, activation="gelu"),
    ],
)  # fmt: skip
def test_arguments_say_an_architecture_and_are_read_as_the_same(a: Architecture) -> None:
    found, _ = architecture_of_arguments(arguments(a), a.padded_vocabulary, a.dtype)
    assert found == a


def test_what_megatron_lm_has_no_word_for_gets_no_arguments() -> None:
    assert arguments_of(replace(GPT2, family="bloom", positions="alibi", embedding_norm=True)) is None
    assert arguments_of(replace(LLAMA, rope_scaling={**LLAMA3, "original_max_position_embeddings": 64})) is None
    assert (
        arguments_of(replace(GPT2, family="gpt_neox", positions="rope", rope_theta=1e4, parallel_residual=True)) is None
    )


READ_ALL = """
import os, re
from pathlib import Path
import easyllm.convert.foreign, torch, safetensors.torch, numpy
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
torch.empty(1).numpy()
before = peak()
weights = easyllm.convert.foreign.open_checkpoint(Path(os.environ["CHECKPOINT"])).weights
for name in weights.names():
    weights.read(name)
print(peak() - before)
"""


@pytest.mark.parametrize("how", ["ranks", "torch_dist"])
def test_reading_a_checkpoint_needs_the_memory_of_its_largest_tensor(tmp_path: Path, how: str) -> None:
    from easyllm.convert.write_megatron import write_checkpoint

    a = replace(LLAMA, layers=6, hidden=1024, ffn_hidden=2816, heads=8, kv_heads=8, head_dim=128)
    model = {name: torch.zeros(shape) for name, shape in shapes(a).items()}
    if how == "ranks":
        save(tmp_path, model, args=arguments(a))
    else:
        write_checkpoint(InMemory(model), tmp_path, {SAVED: {"architecture": a.as_record(), "step": 0}})
    largest, whole = max(t.nbytes for t in model.values()), sum(t.nbytes for t in model.values())
    assert whole > 10 * largest
    grown = int(run_python(READ_ALL, CHECKPOINT=str(tmp_path)))
    assert 0 < grown < 4 * largest  # and what is imported on the way


class InMemory:
    """Tensors as Weights."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].dtype

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name].clone()
