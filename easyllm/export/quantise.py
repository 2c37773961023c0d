"""q4_k_m: the types that llama.cpp chooses for each tensor, made by llama.cpp's own quantiser, a tensor at a time.

The wheel of xllamacpp carries ggml's quantiser but not the program that chooses (llama-quantize), so the choice of
Q4_K_M stands here, as src/llama-quant.cpp has it: half of the layers give attn_v, fused qkv and ffn_down 6 bits, the
head has 6 too, the rest 4; models of eight experts, 80 layers and Falcon's shape have rules of their own.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy

Type = gguf.GGMLQuantizationType
FALLBACK = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}
"""For rows that are no multiple of 256, as llama.cpp has it."""
KEPT = ("_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", "token_types.weight")


@dataclass(frozen=True)
class Shape:
    """What the choice depends on, besides the tensor."""

    layers: int
    tied: bool
    """Whether the embedding is the head too."""
    architecture: str = "llama"
    experts: int = 0
    heads_a_value: int = 1
    """Query heads that share one value head."""


def chosen_type(name: str, row: int, shape: Shape) -> Any:
    """The type of one matrix with rows of ``row`` values."""
    head = name == "output.weight" or (shape.tied and name == "token_embd.weight")
    if head and shape.architecture == "falcon":
        return Type.Q8_0
    wanted = Type.Q6_K if head else _of_layer(name, shape)
    if row % gguf.GGML_QUANT_SIZES[wanted][0]:
        wanted = FALLBACK[wanted]
    return Type.F16 if row % gguf.GGML_QUANT_SIZES[wanted][0] else wanted


def _of_layer(name: str, shape: Shape) -> Any:
    parts = name.split(".")
    what, layer = parts[-2], int(parts[1]) if parts[0] == "blk" else 0
    eight = shape.experts == 8
    if what in ("attn_v", "attn_qkv", "attn_kv_b"):
        if eight:
            return Type.Q8_0
        shared = shape.layers == 80 and shape.heads_a_value > 1  # the value heads of a 70B are few, so they are spared
        return Type.Q6_K if more_bits(layer, shape.layers) else Type.Q5_K if shared else Type.Q4_K
    if what in ("attn_k", "attn_output") and eight:
        return Type.Q8_0 if what == "attn_k" else Type.Q5_K
    if what.startswith("ffn_down"):
        if shape.architecture != "falcon":
            return Type.Q6_K if more_bits(layer, shape.layers) else Type.Q4_K
        if layer < shape.layers // 16:
            return Type.Q6_K
        return Type.Q5_K if more_bits(layer, shape.layers) else Type.Q4_K
    return Type.Q4_K


def more_bits(layer: int, layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between them."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def quantise(source: Path, out: Path, advance: Callable[[], None]) -> dict[str, int]:
    """Write ``out`` from a GGUF of 16 or 32 bits; gives how many tensors are of which type."""
    reader = gguf.GGUFReader(source)
    shape = _shape(reader)
    types = [_type_of(tensor, shape) for tensor in reader.tensors]
    writer = gguf.GGUFWriter(out, shape.architecture)
    _copy_fields(reader, writer)
    for tensor, wanted in zip(reader.tensors, types, strict=True):
        in_bytes = _byte_shape(tensor.shape[::-1].tolist(), wanted)
        nbytes = int(numpy.prod(in_bytes))
        writer.add_tensor_info(tensor.name, in_bytes, numpy.dtype(numpy.uint8), nbytes, raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, wanted in zip(reader.tensors, types, strict=True):
        writer.write_tensor_data(_as_type(tensor, wanted))
        advance()
    writer.close()
    return {wanted.name: types.count(wanted) for wanted in sorted(set(types))}


def _shape(reader: Any) -> Shape:
    architecture = reader.fields["general.architecture"].contents()

    def number(key: str, absent: int) -> int:
        field = reader.fields.get(f"{architecture}.{key}")
        found = absent if field is None else field.contents()
        return int(max(found) if isinstance(found, list) else found)

    heads = number("attention.head_count", 1)
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    shared = heads // max(1, number("attention.head_count_kv", heads))
    return Shape(number("block_count", 0), tied, architecture, number("expert_count", 0), shared)


def _type_of(tensor: Any, shape: Shape) -> Any:
    name = tensor.name
    if len(tensor.shape) < 2 or not name.endswith("weight") or name.endswith(KEPT):
        return tensor.tensor_type
    return chosen_type(name, int(tensor.shape[0]), shape)


def _byte_shape(shape: list[int], wanted: Any) -> list[int]:
    block, size = gguf.GGML_QUANT_SIZES[wanted]
    return [*shape[:-1], shape[-1] // block * size]


def _copy_fields(reader: Any, writer: Any) -> None:
    ours = {"general.file_type": gguf.LlamaFileType.MOSTLY_Q4_K_M, "general.quantization_version": 2}
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF.") or field.name in ours:
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(ours["general.file_type"])
    writer.add_quantization_version(ours["general.quantization_version"])


def _as_type(tensor: Any, wanted: Any) -> Any:
    """The tensor's bytes as ``wanted``."""
    if wanted == tensor.tensor_type:
        return numpy.ascontiguousarray(tensor.data).view(numpy.uint8)
    values = numpy.ascontiguousarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=numpy.float32)
    if wanted == Type.F16:
        return values.astype(numpy.float16).view(numpy.uint8)
    made = numpy.empty(_byte_shape(list(values.shape), wanted), numpy.uint8)
    row = values.shape[-1]
    _quantiser()(int(wanted), values.ctypes.data, made.ctypes.data, 0, values.size // row, row, None)
    return made


def _quantiser() -> Any:
    """ggml_quantize_chunk(type, values, out, first, rows, row, importance) of the wheel's library."""
    from xllamacpp import xllamacpp as runtime

    found = ctypes.CDLL(runtime.__file__).ggml_quantize_chunk
    numbers = [ctypes.c_int64] * 3
    found.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *numbers, ctypes.c_void_p]
    found.restype = ctypes.c_size_t
    return found
