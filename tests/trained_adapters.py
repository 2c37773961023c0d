"""Adapters of the tests' models, trained a few steps by PEFT, so that they say something of their own."""

from pathlib import Path
from typing import Any

TARGETS = {"llama": ["q_proj", "v_proj", "down_proj"], "gpt2": ["c_attn", "c_proj", "c_fc"]}


def train_adapter(base: Path, out: Path, family: str = "llama", seed: int = 1, steps: int = 6, **settings: Any) -> Path:
    """A LoRA adapter of the model in ``base``, saved as PEFT saves it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    told: dict[str, Any] = {"r": 4, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": TARGETS[family]}
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**(told | settings)))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    ids = torch.randint(3, 300, (4, 24))
    for _ in range(steps):
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
    model.save_pretrained(out)
    return out


def alone(base: Path, adapter: Path | None, prompts: list[list[int]], tokens: int, ends: list[int]) -> list[Any]:
    """(answer, log-probabilities of its tokens) of plain ``generate()`` to each prompt: PEFT with one adapter alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from easyllm.serve.engines.embedded import greedy_reference

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    if adapter:
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
    found = []
    for ids in prompts:
        answer = greedy_reference(model, ids, tokens, ends)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*ids, *answer]])).logits[0].float().log_softmax(-1)
        places = range(len(ids) - 1, len(ids) + len(answer) - 1)
        found.append((answer, [float(logits[at, token]) for at, token in zip(places, answer, strict=True)]))
    return found
