"""A model directory becomes something that answers, or a coded refusal that says what it lacks."""

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from easyllm.core.artifact import read_manifest
from easyllm.core.chat import end_token_ids, load_tokenizer, render, seal
from easyllm.core.errors import failed, refuse
from easyllm.core.launch import threads_per_rank
from easyllm.core.messages import say
from easyllm.core.models import choose_dtype, load_model, quiet_libraries
from easyllm.core.progress import note
from easyllm.serve.answering import ModelVoice
from easyllm.serve.contract import Loaded, Sampling
from easyllm.serve.engine import ContinuousBatching, require_same_words
from easyllm.serve.limits import Limits

WARM_UP = ("Hello", "请用一句话介绍你自己，再数到十：1, 2, 3")
"""Two lengths in two languages, so that prefill and decode run before the first user comes."""


def load(directory: Path, limits: Limits) -> Loaded:
    """Tokenizer, weights, engine, and a warm-up that proves the engine against plain ``generate()``.

    Raises UserError SERVE-002 to SERVE-004 and StageFailed where the engine cannot run this architecture.
    """
    tokenizer, given, ends = load_words(directory)
    torch.set_num_threads(threads_per_rank(1))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype, why = choose_dtype(device)
    name = str(dtype).removeprefix("torch.")
    note(say("serve_computing", dtype=name, device=device.type, why=why))
    model = load_weights(directory, dtype, device)
    prompts = [render(tokenizer, [{"role": "user", "content": text}], True)[: limits.input_tokens] for text in WARM_UP]
    engine = ContinuousBatching(model, ends, limits)
    try:
        require_same_words(engine, model, [p[: max(1, limits.total_tokens - 8)] for p in prompts], ends)
    except BaseException:
        engine.stop()  # its thread would keep a refused process alive
        raise
    return Loaded(ModelVoice(engine, tokenizer, ends), model, ends, name, device.type, default_sampling(given))


def load_words(directory: Path) -> tuple[Any, GenerationConfig, list[int]]:
    """(tokenizer, generation config, end token ids); refused where the seal does not reproduce."""
    quiet_libraries()
    tokenizer = load_tokenizer(directory)
    if not tokenizer.chat_template:
        raise refuse("SERVE-002", stage="serve", key="serve.model", path=str(directory))
    manifest = read_manifest(directory)
    sealed = manifest.records.get("template") if manifest else None
    if sealed and seal(tokenizer)["hash"] != sealed["hash"]:
        raise refuse("SERVE-004", stage="serve", key="serve.model", path=str(directory))
    has_config = (directory / "generation_config.json").is_file()
    given = GenerationConfig.from_pretrained(directory) if has_config else GenerationConfig()
    ends = end_token_ids(tokenizer, given)
    if not ends:
        raise refuse("SERVE-003", stage="serve", key="serve.model", path=str(directory))
    return tokenizer, given, ends


def load_weights(directory: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """The model in evaluation mode on ``device``. Raises StageFailed where its files are not a whole model."""
    try:
        return load_model(directory, dtype).to(device)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise failed("SERVE-011", stage="serve", path=str(directory), reason=reason) from error


def default_sampling(given: GenerationConfig) -> Sampling:
    """The OpenAI API's defaults (temperature 1, nothing cut), or what the model's authors wrote instead."""
    if given.do_sample is False:
        return Sampling()
    temperature = 1.0 if given.temperature is None else given.temperature
    return Sampling(temperature, 1.0 if given.top_p is None else given.top_p, given.top_k or 0)
