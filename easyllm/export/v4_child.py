"""Run by another transformers than ours: reads a model directory and writes what it makes of it.

``python v4_child.py REQUEST.json OUT.npz``; the request: {"model", "ids", "texts", "conversations"}. It imports
nothing of easyllm: its transformers and tokenizers are those of the folder that PYTHONPATH names.
"""

import json
import sys
from typing import Any


def answer(request: dict[str, Any], out: str) -> dict[str, Any]:
    """{"versions", "rope_theta", "texts", "conversations"}; the logits of every row of ids go into ``out``."""
    import huggingface_hub
    import numpy
    import tokenizers
    import torch
    import transformers

    where = request["model"]
    model = transformers.AutoModelForCausalLM.from_pretrained(where, torch_dtype=torch.float32).eval()
    with torch.inference_mode():
        rows = [model(input_ids=torch.tensor([ids])).logits[0].numpy() for ids in request["ids"]]
    numpy.savez(out, *rows)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(where)
    asked = [(entry["messages"], entry["add_generation_prompt"]) for entry in request["conversations"]]
    return {
        "versions": {
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "huggingface-hub": huggingface_hub.__version__,
        },
        "rope_theta": getattr(model.config, "rope_theta", None),
        "texts": [tokenizer(text)["input_ids"] for text in request["texts"]],
        "conversations": [
            tokenizer.apply_chat_template(said, add_generation_prompt=more, return_dict=False) for said, more in asked
        ],
    }


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        asked_for = json.load(file)
    print(json.dumps(answer(asked_for, sys.argv[2])))
