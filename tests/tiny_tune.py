"""A tiny random chat model with a small real tokenizer, and jobs of finetune, merge and evaluate on it."""

import importlib
import json
from pathlib import Path
from typing import Any

from easyllm.core import workplace
from easyllm.core.artifact import MANIFEST, Manifest, list_outputs
from easyllm.core.digest import Digests
from easyllm.core.inputs import Place, resolve
from easyllm.core.stage import Job

CHATML = (
    "{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)

ROWS: list[dict[str, Any]] = [
    {"instruction": "What colour is the door?", "input": "", "output": "The door is red."},
    {"instruction": "Add.", "input": "2 + 3", "output": "5"},
    {"messages": [{"role": "user", "content": "门是什么颜色？"}, {"role": "assistant", "content": "门是红色的。"}]},
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hello, who is it?"},
            {"role": "user", "content": "What colour is the door?"},
            {"role": "assistant", "content": "Red."},
        ]
    },
    *[{"instruction": f"What is number {n}?", "output": f"Number {n} is {n * n}."} for n in range(12)],
]

FINETUNE: dict[str, Any] = {
    "base": "base",
    "data": ["rows.jsonl"],
    "epochs": 3,
    "learning_rate": 0.01,
    "sequence_tokens": 128,
    "batch": {"global_samples": 4, "micro_samples": 2},
    "lora": {"rank": 4, "alpha": 8},
    "checkpoint_every_steps": 2,
}


def write_rows(path: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in (ROWS if rows is None else rows)]
    path.write_text("".join(lines), "utf-8")
    return path


def tiny_tokenizer(template: str | None = CHATML, eos: str | None = "<|end|>") -> Any:
    """Byte-level BPE trained on the rows; its padding is its end of turn, as in the real chat model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|start|>", "<|end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    raw.train_from_iterator([json.dumps(row, ensure_ascii=False) for row in ROWS], trainer)
    special = {"eos_token": eos, "pad_token": eos} if eos else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=256, **special)
    tokenizer.chat_template = template
    return tokenizer


def write_base(folder: Path, family: str = "llama", dtype: str = "float32", **tokenizer: Any) -> Path:
    """A random model of ``family`` as stock transformers saves it, its tokenizer beside it."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    words = tiny_tokenizer(**tokenizer)
    torch.manual_seed(5)
    model: Any
    # Large embeddings: with the usual 0.02 a frozen, tied head could say nothing with conviction.
    # No padding id in the config: it would zero the embedding of the token that ends a turn.
    ids: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.3}
    if family == "llama":
        shape: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), tie_word_embeddings=True, **shape, **heads, **ids))
    else:
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=len(words), n_embd=48, n_layer=2, n_head=4, n_positions=256, **ids)
        )
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def write_family(folder: Path, family: str, positions: int = 128) -> Path:
    """A random model of the family with as many rows as the tokenizer beside it has tokens."""
    import torch
    import transformers

    from easyllm.core.families.tables import FAMILIES
    from tiny_families import CASES

    words = tiny_tokenizer(CHATML)
    torch.manual_seed(5)
    said = CASES[family][1] | {"vocab_size": len(words), "eos_token_id": words.eos_token_id}
    said |= {key: positions for key in ("max_position_embeddings", "n_positions", "seq_length") if key in said}
    config = getattr(transformers, FAMILIES[family].config_class)(**said)
    getattr(transformers, FAMILIES[family].hf_class)(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def make_job(folder: Path, stage: str, config: dict[str, Any], seed: int = 1234) -> Job[Any]:
    """The job that the pipeline would make for this section of a recipe in ``folder``; runs stand in folder/run."""
    module = importlib.import_module(f"easyllm.{stage}.config")
    section = getattr(module, f"{stage.capitalize()}Config").model_validate(config)
    stages = ("finetune", "align", "merge", "evaluate", "export")
    run, cache = folder / "run", folder / "cache"
    inputs = resolve(stage, section, Place(folder, run, cache, stages, stages, Digests(cache / "digests.json")))
    return Job(stage, section, inputs, seed, "tiny", run, cache, run / f"{stage}.partial")


def check(job: Job[Any]) -> list[Any]:
    problems: list[Any] = importlib.import_module(f"easyllm.{job.stage}.checks").check(job)
    return problems


def publish(job: Job[Any]) -> Manifest:
    """Run the stage and publish its artifact, as the pipeline does; an unfinished one goes on."""
    job.run_dir.mkdir(parents=True, exist_ok=True)
    workplace.open_partial(job)
    return workplace.publish_result(job, importlib.import_module(f"easyllm.{job.stage}.run").run)


def tell_of_files(artifact: Path) -> None:
    """The artifact's manifest tells of its files as they are now, as if they had been published so."""
    path = artifact / MANIFEST
    manifest = json.loads(path.read_text("utf-8"))
    manifest["outputs"] = [row for row in list_outputs(artifact) if row["path"] != MANIFEST]
    path.write_text(json.dumps(manifest), "utf-8")


def tune(folder: Path, **changes: Any) -> Manifest:
    """finetune on the tiny base in ``folder``, which is made if it is not there."""
    if not (folder / "base").exists():
        write_base(folder / "base")
    if not (folder / "rows.jsonl").exists():
        write_rows(folder / "rows.jsonl")
    return publish(make_job(folder, "finetune", FINETUNE | changes))
