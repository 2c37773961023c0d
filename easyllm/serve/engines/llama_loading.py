"""A GGUF file becomes something that answers, once it has shown that it is the model whose tokenizer is used."""

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from easyllm.core.artifact import Decision
from easyllm.core.errors import failed, refuse
from easyllm.core.launch import threads_per_rank
from easyllm.core.messages import say
from easyllm.core.models import load_model
from easyllm.core.progress import note
from easyllm.serve.answering import ModelVoice
from easyllm.serve.contract import Loaded
from easyllm.serve.engines.embedded import greedy_reference, greedy_tokens
from easyllm.serve.engines.llama_engine import LlamaEngine
from easyllm.serve.engines.llama_library import Llama, rounded_up
from easyllm.serve.engines.memory import free_bytes, require_memory
from easyllm.serve.engines.precision import told
from easyllm.serve.limits import Limits
from easyllm.serve.words import WARM_UP, WARM_UP_TOKENS, default_sampling, load_words, warm_up_prompts

TEXTS = (*WARM_UP, "  two spaces,\n\ttabs and lines\n", "naïve café, 12345.67", "灯塔的光，慢慢熄灭。", "🙂🚢")
"""What tokenizers cut differently first: spaces, digits, accents, Chinese, emoji."""


def load_llama(directory: Path, gguf: Path, limits: Limits) -> Loaded:
    """Tokenizer, template and ends of ``directory``, numbers from ``gguf``; it comes back proven.

    Raises UserError SERVE-002 to SERVE-004 and SERVE-067 where the two do not belong together, SERVE-044 where memory
    lacks, and StageFailed where llama.cpp cannot run the file or, in 32 bits, answers otherwise than ``generate()``.
    """
    tokenizer, given, ends = load_words(directory)
    threads = threads_per_rank(1)
    torch.set_num_threads(threads)

    def require_room(opened: Llama) -> None:
        held = replace(limits, total_tokens=rounded_up(limits.total_tokens))
        dtype = torch.float32 if opened.full_precision else torch.float16
        require_memory(held, directory, dtype, free_bytes(torch.device("cpu")))

    llama = Llama(gguf, limits.concurrent_requests, limits.total_tokens, threads, require_room)
    try:
        require_same_vocabulary(llama, tokenizer, gguf)
    except BaseException:
        llama.close()
        raise
    engine = LlamaEngine(llama, tokenizer, ends)
    try:
        prompts = warm_up_prompts(tokenizer, limits)
        answers = [greedy_tokens(engine, ids, WARM_UP_TOKENS) for ids in prompts]
        why = prove(llama, directory, prompts, answers, ends)
    except BaseException:
        engine.stop()  # its thread would keep a refused process alive
        raise
    note(told(Decision("engine", "llama.cpp", say("why_engine_llama", file=gguf.name))))
    note(say("serve_llama", file=gguf.name, weights=llama.weights, why=why))
    return Loaded(ModelVoice(engine, tokenizer, ends), ends, llama.weights, "cpu", default_sampling(given))


def require_same_vocabulary(llama: Llama, tokenizer: Any, gguf: Path) -> None:
    """Raises UserError SERVE-067: token ids that mean something else there would be answered by fluent nonsense."""
    if llama.vocabulary_size < len(tokenizer):
        sizes = {"ours": f"{len(tokenizer)} tokens", "theirs": f"{llama.vocabulary_size} tokens", "text": "-"}
        raise refuse("SERVE-067", stage="serve", key="serve.gguf", file=gguf.name, **sizes)
    template = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    for text in (*TEXTS, str(template)):
        ours, theirs = tokenizer.encode(text, add_special_tokens=False), llama.tokenize(text)
        if ours != theirs:
            raise refuse(
                "SERVE-067", stage="serve", key="serve.gguf", file=gguf.name, text=text, ours=ours, theirs=theirs
            )


def prove(
    llama: Llama, directory: Path, prompts: list[list[int]], answers: list[list[int]], ends: list[int]
) -> str:  # fmt: skip
    """In 32 bits the answers must be those of plain ``generate()``; gives in words what has been shown."""
    if not llama.full_precision:
        return say("why_llama_rounded")
    if not any(directory.glob("*.safetensors")):
        return say("why_llama_alone")
    model = load_model(directory, torch.float32)
    references = [greedy_reference(model, ids, WARM_UP_TOKENS, ends) for ids in prompts]
    del model
    gc.collect()  # only the file's own weights stay in memory
    for ids, mine, reference in zip(prompts, answers, references, strict=True):
        if mine != reference:
            raise failed("SERVE-068", stage="serve", mine=mine, reference=reference, tokens=len(ids))
    return say("why_llama_proven", answers=len(answers))
