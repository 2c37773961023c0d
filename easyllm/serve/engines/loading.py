"""A model directory becomes something that answers, or a coded refusal that says what it lacks."""

import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from easyllm.core.artifact import Decision
from easyllm.core.errors import failed
from easyllm.core.launch import threads_per_rank
from easyllm.core.messages import say
from easyllm.core.models import load_model
from easyllm.core.progress import note
from easyllm.serve.adapters.settings import AdapterSettings
from easyllm.serve.adapters.shelf import open_shelf
from easyllm.serve.answering import ModelVoice
from easyllm.serve.contract import Engine, Loaded
from easyllm.serve.engines.embedded import ContinuousBatching, references_of, require_same_words
from easyllm.serve.engines.grammar import Grammars, knows
from easyllm.serve.engines.memory import free_bytes, require_memory
from easyllm.serve.engines.precision import decide_dtype, decide_prefix_cache, told
from easyllm.serve.engines.reordering import reorder
from easyllm.serve.limits import Limits
from easyllm.serve.words import default_sampling, load_words, warm_up_prompts


def load(
    directory: Path, limits: Limits, asked: str = "auto", prefix_cache: bool | None = None,
    adapters: AdapterSettings | None = None,
) -> Loaded:  # fmt: skip
    """Tokenizer, weights, engine, adapters, and a warm-up that proves the engine against plain ``generate()``.

    Raises UserError SERVE-002 to SERVE-004, of memory SERVE-044, for adapters SERVE-050 to SERVE-058, and StageFailed
    where the engine cannot run this architecture.
    """
    tokenizer, given, ends = load_words(directory)
    torch.set_num_threads(threads_per_rank(1))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        share_keys_within_groups()
    dtype, why = decide_dtype(asked, device)
    share, why_share = decide_prefix_cache(prefix_cache, dtype)
    name = str(dtype).removeprefix("torch.")
    note(told(Decision("engine", "embedded", say("why_engine_embedded"))))
    note(say("serve_computing", dtype=name, device=device.type, why=why))
    model = load_weights(directory, dtype, device)
    spare = require_memory(limits, directory, dtype, free_bytes(device))
    prompts = warm_up_prompts(tokenizer, limits)
    references = references_of(model, prompts, ends)
    if device.type == "cpu":
        reordered, why_reordered = reorder(model, spare)
        note(told(Decision("reordered weights", reordered, why_reordered)))

    def prove(engine: Engine) -> None:
        require_same_words(engine, prompts, references)

    words = Grammars(tokenizer, model.get_output_embeddings().weight.shape[0], ends) if knows(tokenizer) else None
    engine = ContinuousBatching(model, ends, limits, words, share, prove)
    if share and not engine.prefix_cache:
        why_share = say("why_prefix_attention")
    note(told(Decision("prefix cache", engine.prefix_cache, why_share)))
    try:
        prove(engine)
        shelf = open_shelf(engine, adapters, tokenizer, ends, prompts) if adapters and adapters.wanted else None
    except BaseException:
        engine.stop()  # its thread would keep a refused process alive
        raise
    return Loaded(ModelVoice(engine, tokenizer, ends), ends, name, device.type, default_sampling(given), shelf)


def share_keys_within_groups() -> None:
    """Let attention read the keys and values of grouped heads where they lie, in this process.

    transformers 5.23 (integrations/sdpa_attention.py, use_gqa_in_sdpa) copies them for every head of a group where
    there is a mask, which the engine's passes always bring, since GPUs' fast kernels cannot have both. A CPU's can,
    with the same results to the last bit; a test holds them to that.
    """
    os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")


def load_weights(directory: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """The model in evaluation mode on ``device``. Raises StageFailed where its files are not a whole model."""
    try:
        return load_model(directory, dtype).to(device)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, StrictDataclassError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise failed("SERVE-011", stage="serve", path=str(directory), reason=reason) from error
