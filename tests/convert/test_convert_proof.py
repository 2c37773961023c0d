"""The proof of a conversion: both models run without being in memory, and what is wrong is named by its tensor."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from easyllm.convert.answer import Question
from easyllm.convert.prompts import parity_ids
from easyllm.convert.prove import EXACT, compared, judge, on_the_way_to, parted
from easyllm.convert.stock import Stock
from easyllm.core.errors import StageFailed
from easyllm.core.families.config import architecture_of
from tiny_families import CASES, VOCABULARY, make_model, read_config
from tiny_megatron import run_python

FILE = "model.safetensors"
PROMPTS = [list(range(0, VOCABULARY, 5)), [5, 299, 17, 17, 0, 123]]
ROUNDED = {"llama": "bfloat16", "gpt2": "float16", "bloom": "bfloat16"}
"""Cases that are stored in another dtype than fp32."""

# Of one rank; Megatron's weights are the Hugging Face files of `checkpoint`, mapped as they are read.
ANSWER = """
import json, os
from pathlib import Path
os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
from easyllm.convert.answer import Question, answer
from easyllm.core.families.mapping import AsMegatron
from easyllm.core.families.weights import HfFiles
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.megatron.layout import Layout
from easyllm.core.megatron.session import megatron_session, rank_device

with megatron_session(rank_device("cpu"), Layout(), 7):
    for asked in json.loads(os.environ["QUESTIONS"]):
        question = Question(**asked)
        architecture = Architecture.from_record(question.architecture)
        answer(question, AsMegatron(HfFiles(Path(question.checkpoint)), architecture))
"""


def answered(questions: list[Question]) -> None:
    run_python(ANSWER, QUESTIONS=json.dumps([vars(question) for question in questions]))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Question]:
    """Every case, answered by Megatron in one process."""
    base = tmp_path_factory.mktemp("proof")
    asked: dict[str, Question] = {}
    for case in CASES:
        dtype = ROUNDED.get(case, EXACT)
        directory = make_model(case, base / case, dtype)
        out = base / f"{case}.answer"
        out.mkdir()
        record = architecture_of(read_config(directory)).as_record()
        asked[case] = Question(str(directory), record, PROMPTS, [EXACT, *{dtype} - {EXACT}], str(out))
    answered(list(asked.values()))
    return asked


@pytest.mark.parametrize("case", CASES)
def test_every_family_says_the_same_on_both_sides(questions: dict[str, Question], case: str) -> None:
    proof = judge(questions[case], Stock.of(Path(questions[case].checkpoint)))
    assert proof.exact.holds
    assert proof.exact.largest_logit > 1  # logits that mean something
    assert proof.exact.positions == sum(map(len, PROMPTS))
    record = proof.as_record()
    assert (record["dtype"], record["holds"], record["top1_agreement"]) == (EXACT, True, 1.0)
    if case in ROUNDED:
        assert (record["stored"]["dtype"], record["stored"]["holds"]) == (ROUNDED[case], True)
        # Rounding moves more than fp32 may, so that a report in the wrong dtype could not pass for this one.
        assert record["stored"]["max_logit_difference"] > record["tolerance"]
    else:
        assert "stored" not in record


def swapped_rows(name: str, rows: tuple[int, int]) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        # Copies: the file that is written is the one that they are mapped from.
        tensors = {key: tensor.clone() for key, tensor in load_file(directory / FILE).items()}
        weight = tensors[name]
        weight[list(rows)] = weight[list(reversed(rows))]
        save_file(tensors, directory / FILE, {"format": "pt"})

    return change


def configured(**values: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        config = read_config(directory) | values
        (directory / "config.json").write_text(json.dumps(config), "utf-8")

    return change


PLAIN_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
BROKEN: dict[str, tuple[str, Callable[[Path], None], str, str, str]] = {
    "q": ("llama", swapped_rows("model.layers.1.self_attn.q_proj.weight", (3, 4)), "PARITY-004",
          "decoder.layers.1.self_attention.linear_qkv.weight", "model.layers.1.self_attn.q_proj.weight"),
    "k": ("llama", swapped_rows("model.layers.1.self_attn.k_proj.weight", (3, 20)), "PARITY-004",
          "decoder.layers.1.self_attention.linear_qkv.weight", "model.layers.1.self_attn.k_proj.weight"),
    "up": ("gemma", swapped_rows("model.layers.0.mlp.up_proj.weight", (0, 1)), "PARITY-004",
           "decoder.layers.0.mlp.linear_fc1.weight", "model.layers.0.mlp.up_proj.weight"),
    "bias": ("bloom", swapped_rows("transformer.h.1.self_attention.dense.bias", (3, 4)), "PARITY-004",
             "decoder.layers.1.self_attention.linear_proj.bias", "transformer.h.1.self_attention.dense.bias"),
    "conv1d": ("gpt2", swapped_rows("transformer.h.0.attn.c_attn.weight", (3, 4)), "PARITY-004",
               "decoder.layers.0.self_attention.linear_qkv.weight", "transformer.h.0.attn.c_attn.weight"),
    "embedding": ("llama-tied", swapped_rows("model.embed_tokens.weight", (5, 10)), "PARITY-004",
                  "embedding.word_embeddings.weight", "model.embed_tokens.weight"),
    "output": ("gpt_neox", swapped_rows("embed_out.weight", (5, 10)), "PARITY-004",
               "output_layer.weight", "embed_out.weight"),
    "head norm": ("qwen3", swapped_rows("model.layers.1.self_attn.k_norm.weight", (0, 1)), "PARITY-004",
                  "decoder.layers.1.self_attention.k_layernorm.weight", "model.layers.1.self_attn.k_norm.weight"),
    "epsilon": ("qwen2", configured(rms_norm_eps=1e-2), "PARITY-004",
                "decoder.layers.0.input_layernorm.weight", "model.layers.0.input_layernorm.weight"),
    "rope scaling": ("llama3", configured(**PLAIN_ROPE), "PARITY-005",
                     "decoder.layers.0.self_attention.linear_proj.weight", "model.layers.0.self_attn.o_proj.weight"),
    "window": ("mistral", configured(sliding_window=None), "PARITY-005",
               "decoder.layers.0.self_attention.linear_proj.weight", "model.layers.0.self_attn.o_proj.weight"),
    "residual": ("gpt_neox-serial", configured(use_parallel_residual=True), "PARITY-005",
                 "decoder.layers.0.pre_mlp_layernorm.weight", "gpt_neox.layers.0.post_attention_layernorm.weight"),
}  # fmt: skip
"""What is done to the converted model of a case, and the code and the two names that it must be told by."""


@pytest.fixture(scope="module")
def failures(questions: dict[str, Question], tmp_path_factory: pytest.TempPathFactory) -> dict[str, StageFailed]:
    """What each broken conversion fails with; Megatron answers all of them in one process."""
    base = tmp_path_factory.mktemp("broken")
    asked: dict[str, tuple[Question, Stock, Any]] = {}
    for name, (case, change, *_) in BROKEN.items():
        shutil.copytree(questions[case].checkpoint, base / name)
        change(base / name)
        hf = Stock.of(base / name)
        parity, worst = compared(questions[case], hf)
        assert not parity.holds, name
        out = base / f"{name}.trace"
        out.mkdir()
        asked[name] = on_the_way_to(worst, Question(**vars(questions[case]) | {"out": str(out)})), hf, parity
    answered([question for question, *_ in asked.values()])
    return {name: parted(question, hf, parity) for name, (question, hf, parity) in asked.items()}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_in_a_converted_model_is_named(failures: dict[str, StageFailed], name: str) -> None:
    _, _, code, megatron, hf = BROKEN[name]
    failure = failures[name]
    assert failure.problem
    assert (failure.problem.code, failure.problem.params["megatron"], failure.problem.params["hf"]) == (
        code, megatron, hf,
    )  # fmt: skip
    assert f"{megatron} / {hf}" in str(failure)
    assert failure.problem.params["max_logit_difference"] > failure.problem.params["tolerance"]


def test_files_that_the_stock_class_does_not_load_whole_are_refused(
    questions: dict[str, Question], tmp_path: Path
) -> None:
    """transformers would fill what is missing with random numbers, and say so in a warning."""
    directory = tmp_path / "model"
    shutil.copytree(questions["llama"].checkpoint, directory)
    tensors = load_file(directory / FILE)
    norm = tensors.pop("model.norm.weight").clone()
    head = tensors["lm_head.weight"][:100].clone()
    save_file(tensors | {"model.nrom.weight": norm, "lm_head.weight": head}, tmp_path / FILE)
    (tmp_path / FILE).replace(directory / FILE)
    with pytest.raises(StageFailed, match="PARITY-006") as raised:
        Stock.of(directory).logits(PROMPTS, EXACT)
    said = "LlamaForCausalLM.*Missing: model.norm.weight; unknown to it: model.nrom.weight; of another shape: lm_head"
    assert re.search(said, str(raised.value))


def test_files_of_the_bare_model_are_read_as_stock_loading_reads_them(
    questions: dict[str, Question], tmp_path: Path
) -> None:
    """GPT-2's own files have no ``transformer.`` before their names, and the mask of every layer in them."""
    shutil.copytree(questions["gpt2"].checkpoint, tmp_path / "gpt2")
    tensors = {name.removeprefix("transformer."): t.clone() for name, t in load_file(tmp_path / "gpt2" / FILE).items()}
    save_file(tensors | {"h.0.attn.bias": torch.ones(1, 1, 128, 128)}, tmp_path / FILE)
    (tmp_path / FILE).replace(tmp_path / "gpt2" / FILE)
    parity, _ = compared(questions["gpt2"], Stock.of(tmp_path / "gpt2"))
    assert parity.holds


class Words:
    """A tokenizer of one id a character, some past the model's rows."""

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(character) for character in text]}


def test_the_prompts_reach_the_whole_vocabulary_and_as_far_as_the_model_does() -> None:
    [row] = parity_ids(Words(), 5000, 4096)
    assert len(row) > 400
    assert max(row) == 4999
    assert row[-64:] == sorted(set(row[-64:]))
    rows = parity_ids(Words(), 5000, 100)
    assert [id_ for one in rows for id_ in one] == row
    assert {len(one) for one in rows[:-1]} == {100}
    assert parity_ids(None, 50, 32) == [list(range(32)), list(range(32, 50))]
