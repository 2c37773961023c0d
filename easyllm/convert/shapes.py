"""What shape every tensor of an architecture has, under the names of Megatron's local layers."""

from easyllm.core.families.mapping import rules
from easyllm.core.families.weights import Weights
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.messages import say


def shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    """By name, in the model's order."""
    wide, up = a.heads * a.head_dim, a.ffn_hidden * (2 if a.gated else 1)
    qkv = wide + 2 * a.kv_heads * a.head_dim
    known = {
        "word_embeddings.weight": (a.padded_vocabulary, a.hidden),
        "position_embeddings.weight": (a.max_positions, a.hidden),
        "output_layer.weight": (a.padded_vocabulary, a.hidden),
        "linear_qkv.weight": (qkv, a.hidden),
        "linear_qkv.bias": (qkv,),
        "linear_proj.weight": (a.hidden, wide),
        "linear_fc1.weight": (up, a.hidden),
        "linear_fc1.bias": (up,),
        "linear_fc2.weight": (a.hidden, a.ffn_hidden),
        "q_layernorm.weight": (a.head_dim,),
        "k_layernorm.weight": (a.head_dim,),
    }
    norms_and_biases = (a.hidden,)
    names = [rule.megatron for rule in rules(a)]
    return {name: known.get(".".join(name.split(".")[-2:]), norms_and_biases) for name in names}


def differing(weights: Weights, a: Architecture) -> list[str]:
    """In words, every tensor that ``a`` wants and ``weights`` have not so, and the other way round."""
    wanted, found = shapes(a), set(weights.names())
    wrong = [say("tensor_missing", name=name) for name in wanted if name not in found]
    wrong += [say("tensor_unknown", name=name) for name in sorted(found - set(wanted))]
    for name, shape in wanted.items():
        if name in found and weights.shape(name) != shape:
            wrong.append(say("tensor_shaped", name=name, found=list(weights.shape(name)), wanted=list(shape)))
    return wrong
