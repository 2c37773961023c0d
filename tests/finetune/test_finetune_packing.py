"""Rows end to end give what they give alone, in every architecture that can; elsewhere they are padded."""

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from easyllm.core.batches import answer_loss, pack, pad
from easyllm.core.conversations import Conversation
from easyllm.core.errors import UserError
from easyllm.core.examples import IGNORED, Example
from easyllm.core.tuning.head import head_loss
from easyllm.core.tuning.packed import packed_attention
from easyllm.finetune import packing
from easyllm.finetune.micro import share_out
from tiny_families import VOCABULARY, make_model
from tiny_tune import FINETUNE, make_job, publish, tiny_tokenizer, tune, write_rows

PACKABLE = ("llama", "llama3", "mistral", "qwen2", "qwen3", "gemma", "gpt2", "gpt_neox")
MORE: dict[str, dict[str, Any]] = {
    "phi3": {"num_key_value_heads": 2, "pad_token_id": 0},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 5},
    "cohere": {"num_key_value_heads": 2, "logit_scale": 0.25},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 4},
}
"""Families that are not converted, and what their small models say."""


def loaded(case: str, folder: Path) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    if case not in MORE:
        return AutoModelForCausalLM.from_pretrained(str(make_model(case, folder / case)))
    torch.manual_seed(3)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "max_position_embeddings": 128, "initializer_range": 0.3}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(case, **shape | MORE[case])).eval()


def rows(lengths: tuple[int, ...] = (9, 23, 5, 9)) -> list[Example]:
    draw = random.Random(7)
    made = []
    for length in lengths:
        ids = [draw.randrange(1, VOCABULARY) for _ in range(length)]
        labels = [IGNORED if at < length // 3 else number for at, number in enumerate(ids)]
        made.append(Example(ids, labels, Conversation((), Path("rows.jsonl"), 1)))
    return made


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        worst = (gradient - other[name]).abs().max() / other[name].abs().max().clamp_min(1e-3)
        assert worst < 1e-4, name


@pytest.mark.parametrize("case", [*PACKABLE, "phi3"])
def test_packed_rows_give_the_logits_losses_and_gradients_of_rows_alone(case: str, tmp_path: Path) -> None:
    model, examples = loaded(case, tmp_path), rows()
    layout = packing.choose(model, examples, "auto", 0, "finetune")
    assert layout.packed, layout.decision.why
    assert layout.head is not None
    alone = [answer_loss(model, pad([example], 0)) for example in examples]
    wanted = gradients(model, torch.stack(alone).sum())
    with packed_attention(model):
        logits = model(**pack(examples).fed, use_cache=False).logits
        found = gradients(model, answer_loss(model, pack(examples), layout.head))
        own_head = answer_loss(model, pack(examples))
    assert own_head.item() == pytest.approx(sum(one.item() for one in alone), rel=1e-5)
    parts = [model(**pad([example], 0).fed).logits[0] for example in examples]
    assert ((logits[0] - torch.cat(parts)).abs().max() / logits.abs().max()).item() < 1e-5
    for part, example, one in zip(logits[0].split([len(e.ids) for e in examples]), examples, alone, strict=True):
        labels = torch.tensor(example.labels[1:])
        loss = torch.nn.functional.cross_entropy(part[:-1], labels, ignore_index=IGNORED, reduction="sum")
        assert loss.item() == pytest.approx(one.item(), rel=1e-5)
    same(found, wanted)


@pytest.mark.parametrize(
    ("case", "reason"), [("bloom", "attention of its own"), ("gemma2", "refuses"), ("gpt_neo", "")]
)
def test_where_packing_is_not_exact_rows_are_padded_and_packing_true_is_refused(
    case: str, reason: str, tmp_path: Path
) -> None:
    model = loaded(case, tmp_path)
    layout = packing.choose(model, rows(), "auto", 0, "finetune")
    assert not layout.packed
    assert reason in layout.decision.why
    with pytest.raises(UserError, match=r"TRAIN-020"):
        packing.choose(model, rows(), True, 0, "finetune")


def test_a_model_that_caps_its_logits_makes_them_itself_and_one_that_scales_them_need_not(tmp_path: Path) -> None:
    assert packing.choose(loaded("gemma2", tmp_path), rows(), "auto", 0, "finetune").head is None
    model, batch = loaded("cohere", tmp_path), pad(rows(), 0)
    head = packing.choose(model, rows(), "auto", 0, "finetune").head
    assert head is not None
    wanted = gradients(model, answer_loss(model, batch))
    same(gradients(model, answer_loss(model, batch, head)), wanted)


@pytest.mark.parametrize("bias", [False, True])
def test_the_loss_in_chunks_has_the_value_and_gradients_of_the_plain_one(
    bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("easyllm.core.tuning.head.LOGITS_AT_ONCE", 3 * 50)
    torch.manual_seed(1)
    head = torch.nn.Linear(12, 50, bias=bias)
    hidden, targets = torch.randn(10, 12, requires_grad=True), torch.randint(0, 50, (10,))
    plain = torch.nn.functional.cross_entropy(head(hidden), targets, reduction="sum")
    wanted = torch.autograd.grad(plain / 7, (hidden, *head.parameters()))
    loss = head_loss(hidden, head, targets)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    for one, other in zip(torch.autograd.grad(loss / 7, (hidden, *head.parameters())), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, plain_half = head_loss(hidden, head, targets), head(hidden)
    wanted_half = torch.nn.functional.cross_entropy(plain_half.float(), targets, reduction="sum")
    assert float(half) == pytest.approx(float(wanted_half), rel=1e-3)


def test_packed_training_under_an_adapter_and_checkpointing_has_the_same_gradients(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    how = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model, examples = get_peft_model(loaded("mistral", tmp_path), how), rows((9, 23, 5))
    layout = packing.choose(model, examples, True, 0, "finetune")
    alone = torch.stack([answer_loss(model, pad([example], 0)) for example in examples]).sum()
    wanted = gradients(model, alone)
    model.enable_input_require_grads()
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    with layout.attention(model):
        same(gradients(model, answer_loss(model, layout.batch(examples), layout.head)), wanted)
    model.get_base_model().save_pretrained(tmp_path / "saved")
    assert "easyllm" not in (tmp_path / "saved" / "config.json").read_text()
    assert model.get_base_model().config._attn_implementation == "sdpa"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ranks", [1, 3])
def test_every_row_of_a_step_stands_in_one_micro_batch_and_ranks_have_alike_work(packed: bool, ranks: int) -> None:
    draw = random.Random(5)
    lengths = [draw.randrange(8, 65) for _ in range(200)]
    step = draw.sample(range(200), 31)
    shares = share_out(step, lengths, 2, 64, packed, ranks)
    assert shares == share_out(step, lengths, 2, 64, packed, ranks)
    assert sorted(row for share in shares for micro in share for row in micro) == sorted(step)
    assert len({len(share) for share in shares}) == 1
    sums = [[sum(lengths[row] for row in micro) for micro in share] for share in shares]
    if packed:
        assert max(max(share) for share in sums) <= 2 * 64
        assert max(map(sum, sums)) - min(map(sum, sums)) <= 64 * len(sums[0])
        fewest = -(-sum(lengths[row] for row in step) // (2 * 64))
        assert sum(map(len, sums)) <= fewest + 2 * ranks
    else:
        widest = [max((lengths[row] for row in micro), default=0) for share in shares for micro in share]
        assert max(widest) == max(lengths[row] for row in step)
        assert all(len(micro) <= 2 for share in shares for micro in share)


def test_packed_and_padded_training_go_the_same_way(tmp_path: Path) -> None:
    curves = []
    for name, how in (("packed", True), ("padded", False)):
        folder = tmp_path / name
        folder.mkdir()
        manifest = tune(folder, packing=how)
        lines = (folder / "run" / "finetune" / "losses.csv").read_text().splitlines()[1:]
        curves.append([float(line.split(",")[2]) for line in lines])
        [decision] = [d for d in manifest.decisions if d.what == "packing"]
        assert decision.value is how
    assert max(abs(one - other) for one, other in zip(*curves, strict=True)) < 1e-3
    assert all(one != other for one, other in pairwise(curves[0]))


def test_packing_true_on_a_bloom_stops_with_a_coded_error(tmp_path: Path) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    shape = {"hidden_size": 48, "n_layer": 2, "n_head": 6, "vocab_size": len(tiny_tokenizer())}
    BloomForCausalLM(BloomConfig(**shape, bos_token_id=0, eos_token_id=1)).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl")
    job = make_job(tmp_path, "finetune", FINETUNE | {"packing": True})
    with pytest.raises(UserError, match=r"TRAIN-020.*BloomForCausalLM"):
        publish(job)
