"""What a family needs before the first layer and behind the last, added to a GPTModel that Megatron has built."""

from typing import Any

import torch
from megatron.core import parallel_state

from easyllm.core.families.config import hf_config
from easyllm.core.families.tables import FAMILIES
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.megatron.layers import TorchNorm


def finish_embedding(model: Any, a: Architecture) -> None:
    """The norm (Bloom) or the factor (Gemma) between the embedding and the first layer."""
    if not model.pre_process:
        return
    if a.embedding_norm:
        # Below the embedding, so that checkpoints hold it; the hook is called on what Megatron has summed over ranks.
        model.embedding.norm = TorchNorm(model.config, a.hidden, a.norm_epsilon)
        model.embedding.word_embeddings.register_forward_hook(lambda _, __, found: model.embedding.norm(found))
    if a.embedding_scale:
        model.embedding.word_embeddings.register_forward_hook(lambda _, __, found: found * _root(a.hidden, found))


def _root(hidden: int, like: torch.Tensor) -> torch.Tensor:
    """Rounded to the hidden state's dtype first, as transformers does."""
    return torch.tensor(hidden**0.5, dtype=like.dtype, device=like.device)


def scale_rope(model: Any, a: Architecture) -> None:
    """The frequencies of a scaled rope, by transformers' own formulas: Megatron has Llama 3.1's only."""
    # dynamic scales beyond max_position_embeddings only, and nothing is longer here.
    kind = a.rope_scaling["rope_type"] if a.rope_scaling else "default"
    if kind in ("default", "dynamic"):
        return
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = getattr(transformers, FAMILIES[a.family].config_class)(**hf_config(a))
    rope = model.rotary_pos_emb
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, rope.inv_freq.device)
    assert factor == 1.0
    rope.inv_freq = frequencies


def hide_padding(model: Any, a: Architecture) -> None:
    """Let no padded row of the vocabulary take part in the softmax: the loss is that of the real vocabulary."""
    if not model.post_process:
        return
    columns = a.padded_vocabulary // parallel_state.get_tensor_model_parallel_world_size()
    first = parallel_state.get_tensor_model_parallel_rank() * columns
    real = max(0, a.tokenizer_size - first)
    if real >= columns:
        return

    def hide(_: Any, __: Any, found: tuple[torch.Tensor, Any]) -> tuple[torch.Tensor, Any]:
        logits, bias = found
        logits[..., real:] = torch.finfo(logits.dtype).min
        return logits, bias

    model.output_layer.register_forward_hook(hide)
