"""What turns conversations into token ids and back: tokenizer, template, end tokens. No weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from transformers import GenerationConfig

from easyllm.core.artifact import read_manifest
from easyllm.core.chat import end_token_ids, load_tokenizer, render, render_question, seal
from easyllm.core.errors import refuse
from easyllm.core.models import quiet_libraries
from easyllm.serve.contract import Sampling
from easyllm.serve.limits import Limits

T = TypeVar("T")
WARM_UP = ("Hello", "请用一句话介绍你自己，再数到十：1, 2, 3")
"""Two lengths in two languages, so that prefill and decode run before the first user comes."""
WARM_UP_TOKENS = 8


def load_words(directory: Path) -> tuple[Any, GenerationConfig, list[int]]:
    """(tokenizer, generation config, end token ids).

    UserError where the template is missing or writes no question, the seal does not reproduce, or nothing ends answers.
    """
    quiet_libraries()
    key = "serve.model"
    tokenizer = _readable(directory, "tokenizer", lambda: load_tokenizer(directory))
    if not tokenizer.chat_template:
        raise refuse("SERVE-002", stage="serve", key=key, path=str(directory))
    for text in WARM_UP:
        render_question(tokenizer, text, "serve", key)
    manifest = read_manifest(directory)
    sealed = manifest.records.get("template") if manifest else None
    if sealed and seal(tokenizer)["hash"] != sealed["hash"]:
        raise refuse("SERVE-004", stage="serve", key=key, path=str(directory))
    has_config = (directory / "generation_config.json").is_file()
    given = (
        _readable(directory, "generation_config.json", lambda: _generation_config(directory))
        if has_config
        else GenerationConfig()
    )
    ends = end_token_ids(tokenizer, given)
    if not ends:
        raise refuse("SERVE-003", stage="serve", key=key, path=str(directory))
    return tokenizer, given, ends


def _readable(directory: Path, what: str, read: Callable[[], T]) -> T:
    """What ``read`` gives. UserError SERVE-014 where the files of ``directory`` do not hold it."""
    try:
        return read()
    except Exception as error:  # tokenizers raises Exception itself, transformers whatever it met
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else what}"
        path = str(directory / what) if what.endswith(".json") else str(directory)
        raise refuse("SERVE-014", stage="serve", key="serve.model", path=path, reason=reason) from error


def _generation_config(directory: Path) -> GenerationConfig:
    found = GenerationConfig.from_pretrained(directory)
    ends = found.eos_token_id if isinstance(found.eos_token_id, list) else [found.eos_token_id]
    if not all(end is None or (isinstance(end, int) and not isinstance(end, bool)) for end in ends):
        raise ValueError(f"eos_token_id: {found.eos_token_id!r}")
    return found


def default_sampling(given: GenerationConfig) -> Sampling:
    """The OpenAI API's defaults (temperature 1, nothing cut), or what the model's authors wrote instead."""
    if given.do_sample is False:
        return Sampling()
    temperature = 1.0 if given.temperature is None else given.temperature
    return Sampling(temperature, 1.0 if given.top_p is None else given.top_p, given.top_k or 0)


def warm_up_prompts(tokenizer: Any, limits: Limits) -> list[list[int]]:
    """Short conversations as token ids, with room for an answer of WARM_UP_TOKENS."""
    longest = max(1, min(limits.input_tokens, limits.total_tokens - WARM_UP_TOKENS))
    return [render(tokenizer, [{"role": "user", "content": text}], True)[:longest] for text in WARM_UP]
