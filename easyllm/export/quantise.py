"""q4_k_m: the types that llama.cpp chooses for each tensor, made by llama.cpp's own quantiser, a tensor at a time.

The wheel of xllamacpp carries ggml's quantiser but not the program that chooses (llama-quantize), so the choice of
Q4_K_M stands here: half of attn_v and ffn_down in 6 bits, the head too, fused qkv in 5, the rest in 4.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy

Type = gguf.GGMLQuantizationType
FALLBACK = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}
"""For rows that are no multiple of 256, as llama.cpp has it."""
KEPT = ("_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", "token_types.weight")


def chosen_type(name: str, row: int, layers: int, tied: bool) -> Any:
    """The type of one matrix with rows of ``row`` values."""
    wanted = Type.Q4_K
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        wanted = Type.Q6_K
    elif ".attn_qkv." in name:
        wanted = Type.Q5_K
    elif (".attn_v." in name or ".ffn_down." in name) and more_bits(int(name.split(".")[1]), layers):
        wanted = Type.Q6_K
    if row % gguf.GGML_QUANT_SIZES[wanted][0]:
        wanted = FALLBACK[wanted]
    return Type.F16 if row % gguf.GGML_QUANT_SIZES[wanted][0] else wanted


def more_bits(layer: int, layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between them."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def quantise(source: Path, out: Path, advance: Callable[[], None]) -> dict[str, int]:
    """Write ``out`` from a GGUF of 16 or 32 bits; gives how many tensors are of which type."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    layers = int(reader.fields[f"{architecture}.block_count"].contents())
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    types = [_type_of(tensor, layers, tied) for tensor in reader.tensors]
    writer = gguf.GGUFWriter(out, architecture)
    _copy_fields(reader, writer)
    for tensor, wanted in zip(reader.tensors, types, strict=True):
        shape = _byte_shape(tensor.shape[::-1].tolist(), wanted)
        nbytes = int(numpy.prod(shape))
        writer.add_tensor_info(tensor.name, shape, numpy.dtype(numpy.uint8), nbytes, raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, wanted in zip(reader.tensors, types, strict=True):
        writer.write_tensor_data(_as_type(tensor, wanted))
        advance()
    writer.close()
    return {wanted.name: types.count(wanted) for wanted in sorted(set(types))}


def _type_of(tensor: Any, layers: int, tied: bool) -> Any:
    name = tensor.name
    if len(tensor.shape) < 2 or not name.endswith("weight") or name.endswith(KEPT):
        return tensor.tensor_type
    return chosen_type(name, int(tensor.shape[0]), layers, tied)


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
