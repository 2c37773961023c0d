"""A recipe from text to a Hugging Face model, small enough to run in seconds, and its corpus."""

import json
from pathlib import Path
from typing import Any

SENTENCES = (
    "The lighthouse keeper counts {n} ships before the fog comes in from the west.",
    "A list of {n} numbers is sorted in place, and the method returns None.",
    "If the file cannot be opened, an error with code {n} is raised and nothing is written.",
    "第 {n} 艘船在清晨离开港口，灯塔的光慢慢熄灭。",
    "Water boils at {n} degrees on this mountain; bring more firewood.",
)


def write_corpus(path: Path, documents: int = 200) -> Path:
    """``documents`` rows of prose in two languages, each different, as JSONL."""
    with path.open("w", encoding="utf-8") as file:
        for n in range(documents):
            text = " ".join(SENTENCES[(n + k) % len(SENTENCES)].format(n=n * 7 + k) for k in range(6))
            row = {"src": "test", "text": text, "type": "prose", "id": n, "title": f"page {n}"}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def tiny_recipe(folder: Path, **changes: Any) -> Path:
    """A recipe from text to a Hugging Face model that runs in well under a minute, with its corpus beside it."""
    write_corpus(folder / "corpus.jsonl")
    recipe: dict[str, Any] = {
        "name": "tiny",
        "corpus": {"input": ["corpus.jsonl"], "text_key": "text", "tokenizer": {"train": {"vocab_size": 400}}},
        "pretrain": {
            "model": {
                "family": "llama", "layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2,
                "ffn_hidden": 64, "tie_embeddings": True,
            },
            "sequence_tokens": 32,
            "batch": {"global_samples": 8, "micro_samples": 2},
            "ranks": 2,
            "steps": 12,
            "checkpoint_every_steps": 4,
            "device": "cpu",
        },
        "convert": {"checkpoint": "pretrain", "to": "hf"},
    }  # fmt: skip
    recipe |= changes
    path = folder / "tiny.yaml"
    path.write_text(json.dumps(recipe), "utf-8")  # JSON is YAML
    return path
