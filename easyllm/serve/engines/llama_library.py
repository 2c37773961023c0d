"""llama.cpp itself: a GGUF file on this machine's processors, several sequences in each forward pass.

The wheel of xllamacpp carries llama.cpp as a library and wraps its HTTP server. That server is not enough here: it
gives no token that ends in the middle of a character, nor the log-probability of one, and half the tokens of Chinese
text are such (server-context.cpp, process_token). So its C functions are called, as llama.h declares them.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from gguf import LlamaFileType

from easyllm.core.errors import StageFailed, UserError, failed

BATCH_TOKENS = 512
"""Tokens of one forward pass: a long prompt is read in such pieces, so that other answers go on."""
BATCH_OUTPUTS = 64
"""Rows of logits that one forward pass gives at most; room for them is kept."""
CONTEXT_STEP = 256
"""llama.cpp rounds a sequence's length up to this."""
F32, DECODE, ERROR = 0, 1, 4
"""GGML_TYPE_F32; LLAMA_PROCESS_TYPE_DECODE; GGML_LOG_LEVEL_ERROR."""
FLASH_ATTENTION, DISABLED = 4, 0
"""Place of flash_attn_type among the kinds below; LLAMA_FLASH_ATTN_TYPE_DISABLED."""
Address, Int = ctypes.c_void_p, ctypes.c_int32


class ModelParameters(ctypes.Structure):
    """llama_model_params, left at its defaults; larger than it, since what lies beyond its end is not read."""

    _fields_ = [("all", ctypes.c_uint64 * 64)]


class ContextParameters(ctypes.Structure):
    """llama_context_params up to the last field set here; the rest stays as the library fills it."""

    _fields_ = [
        ("n_ctx", ctypes.c_uint32), ("n_batch", ctypes.c_uint32), ("n_ubatch", ctypes.c_uint32),
        ("n_seq_max", ctypes.c_uint32), ("n_rs_seq", ctypes.c_uint32), ("n_outputs_max", ctypes.c_uint32),
        ("n_outputs_max_per_seq", ctypes.c_uint32), ("n_threads", Int), ("n_threads_batch", Int),
        ("kinds", Int * 5), ("rope", ctypes.c_float * 6), ("yarn_orig_ctx", ctypes.c_uint32),
        ("defrag_thold", ctypes.c_float), ("cb_eval", Address), ("cb_eval_user_data", Address),
        ("type_k", Int), ("type_v", Int), ("rest", ctypes.c_uint64 * 64),
    ]  # fmt: skip


Log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, Address)
FUNCTIONS: dict[str, tuple[list[Any], Any]] = {
    "llama_backend_init": ([], None),
    "llama_log_set": ([Log, Address], None),
    "llama_model_default_params": ([], ModelParameters),
    "llama_context_default_params": ([], ContextParameters),
    "llama_model_load_from_file": ([ctypes.c_char_p, ModelParameters], Address),
    "llama_model_free": ([Address], None),
    "llama_model_get_vocab": ([Address], Address),
    "llama_model_meta_val_str": ([Address, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t], Int),
    "llama_model_n_ctx_train": ([Address], Int),
    "llama_vocab_n_tokens": ([Address], Int),
    "llama_tokenize": ([Address, ctypes.c_char_p, Int, Address, Int, ctypes.c_bool, ctypes.c_bool], Int),
    "llama_init_from_model": ([Address, ContextParameters], Address),
    "llama_free": ([Address], None),
    "llama_set_n_threads": ([Address, Int, Int], None),
    "llama_n_ctx_seq": ([Address], ctypes.c_uint32),
    "llama_get_memory": ([Address], Address),
    "llama_memory_seq_rm": ([Address, Int, Int, Int], ctypes.c_bool),
    "llama_batch_ext_init": ([Address], Address),
    "llama_batch_ext_free": ([Address], None),
    "llama_batch_ext_clear": ([Address], None),
    "llama_batch_ext_add_token": ([Address, Int, Int], Int),
    "llama_batch_ext_set_pos": ([Address, Int, Address], ctypes.c_bool),
    "llama_batch_ext_set_output_logits": ([Address, Int, ctypes.c_bool], ctypes.c_bool),
    "llama_process": ([Address, ctypes.c_int, Address], Int),
    "llama_get_logits_ith": ([Address, Int], ctypes.POINTER(ctypes.c_float)),
}
_told: list[str] = []
"""The library's last words of errors: why a file could not be loaded."""


@dataclass(frozen=True)
class Row:
    """One token of a forward pass."""

    sequence: int
    token: int
    position: int
    output: bool
    """Whether the logits after it are wanted."""


@functools.cache
def library() -> Any:
    """llama.cpp's functions. Raises StageFailed SERVE-066 where the wheel is not the one meant.

    No header comes with the wheel, so the layout of what is handed over by value is proven by its defaults.
    """
    from xllamacpp import xllamacpp as runtime

    found = ctypes.CDLL(runtime.__file__)
    try:
        for name, (arguments, result) in FUNCTIONS.items():
            function = getattr(found, name)
            function.argtypes, function.restype = arguments, result
    except AttributeError as error:
        raise failed("SERVE-066", stage="serve", reason=str(error).splitlines()[0]) from error
    default = found.llama_context_default_params()
    seen = (default.n_ctx, default.n_batch, default.n_ubatch, default.n_seq_max, *default.kinds[1:4])
    seen += (default.defrag_thold, default.type_k, default.type_v)
    if seen != (512, 2048, 512, 1, -1, -1, -1, -1.0, 1, 1):
        raise failed("SERVE-066", stage="serve", reason=f"llama_context_default_params gives {seen}")
    found.llama_log_set(_listen, None)
    found.llama_backend_init()
    return found


@Log
def _listen(level: int, text: bytes | None, _: Any) -> None:
    if level == ERROR and text:
        _told[:] = [*_told[-4:], text.decode(errors="replace").strip()]


def rounded_up(tokens: int) -> int:
    """The length of a sequence with room for so many."""
    return -(-tokens // CONTEXT_STEP) * CONTEXT_STEP


class Llama:
    """One GGUF file, loaded, with room for ``sequences`` of ``tokens`` each. Used by one thread at a time."""

    def __init__(
        self, path: Path, sequences: int, tokens: int, threads: int,
        require_room: Callable[["Llama"], None] | None = None,
    ) -> None:  # fmt: skip
        """Raises StageFailed SERVE-065 where llama.cpp cannot load it.

        ``require_room`` is asked before the key-value cache is made, which takes all its memory at once.
        """
        self._llama = library()
        self._model = self._batch = self._context = None
        _told.clear()
        self._model = self._llama.llama_model_load_from_file(
            str(path).encode(), self._llama.llama_model_default_params()
        )
        if not self._model:
            raise self._refusal(path)
        try:
            self._vocabulary = self._llama.llama_model_get_vocab(self._model)
            self.vocabulary_size = int(self._llama.llama_vocab_n_tokens(self._vocabulary))
            self.sequences = sequences
            if require_room:
                require_room(self)
            self._context = self._llama.llama_init_from_model(self._model, self._parameters(sequences, tokens))
            if not self._context or self._llama.llama_n_ctx_seq(self._context) < tokens:
                raise self._refusal(path)
            self._llama.llama_set_n_threads(self._context, threads, threads)
            self._memory = self._llama.llama_get_memory(self._context)
            self._batch = self._llama.llama_batch_ext_init(self._context)
        except (StageFailed, UserError):
            self.close()
            raise

    def _refusal(self, path: Path) -> StageFailed:
        reason = " ".join(_told) or "llama.cpp gives no reason"
        return failed("SERVE-065", stage="serve", path=path, reason=reason[:500])

    def _parameters(self, sequences: int, tokens: int) -> ContextParameters:
        wanted: ContextParameters = self._llama.llama_context_default_params()
        wanted.n_ctx, wanted.n_seq_max = sequences * rounded_up(tokens), sequences
        wanted.n_batch = wanted.n_ubatch = max(BATCH_TOKENS, sequences)
        wanted.n_outputs_max, wanted.n_outputs_max_per_seq = max(BATCH_OUTPUTS, sequences), 0
        if self.full_precision:  # else keys, values and the sums of attention have 16 bits, and the answer is another
            wanted.type_k = wanted.type_v = F32
            wanted.kinds[FLASH_ATTENTION] = DISABLED
        return wanted

    @property
    def weights(self) -> str:
        """How most weights are kept, in the words of llama.cpp: F32, F16, Q8_0."""
        number = self.said("general.file_type")
        return LlamaFileType(int(number)).name.removeprefix("MOSTLY_").removeprefix("ALL_") if number else "?"

    @property
    def full_precision(self) -> bool:
        """Whether its weights are kept in 32 bits, so that its numbers are those of the model it was made from."""
        return self.weights == "F32"

    def said(self, key: str) -> str | None:
        """A value of the file's header; None where it has none."""
        room = ctypes.create_string_buffer(256)
        length = self._llama.llama_model_meta_val_str(self._model, key.encode(), room, len(room))
        return None if length < 0 else room.value.decode(errors="replace")

    @property
    def positions(self) -> int:
        """The longest sequence the model was made for."""
        return int(self._llama.llama_model_n_ctx_train(self._model))

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text`` as llama.cpp cuts it, special tokens read, none added."""
        raw = text.encode()
        room = (Int * (len(raw) + 8))()
        count = self._llama.llama_tokenize(self._vocabulary, raw, len(raw), room, len(room), False, True)
        return list(room[:count])

    def process(self, rows: Sequence[Row]) -> dict[int, torch.Tensor]:
        """One forward pass; logits [vocabulary] by place in ``rows``. Raises StageFailed where it cannot be done."""
        self._llama.llama_batch_ext_clear(self._batch)
        for row in rows:
            place = self._llama.llama_batch_ext_add_token(self._batch, row.sequence, row.token)
            position = Int(row.position)
            if place < 0 or not self._llama.llama_batch_ext_set_pos(self._batch, place, ctypes.byref(position)):
                raise StageFailed(f"SERVE llama.cpp takes no more than {place} tokens at once")
            self._llama.llama_batch_ext_set_output_logits(self._batch, place, row.output)
        code = self._llama.llama_process(self._context, DECODE, self._batch)
        if code:
            raise StageFailed(f"SERVE llama.cpp could not compute (code {code}): {' '.join(_told)}")
        return {place: self._logits(place) for place, row in enumerate(rows) if row.output}

    def _logits(self, place: int) -> torch.Tensor:
        found = self._llama.llama_get_logits_ith(self._context, place)
        # A copy: the next forward pass writes over it.
        return torch.from_numpy(numpy.ctypeslib.as_array(found, shape=(self.vocabulary_size,)).copy())

    def forget(self, sequence: int, after: int = 0) -> bool:
        """Drop what is kept of a sequence from position ``after`` on; False where a part cannot be dropped."""
        return bool(self._llama.llama_memory_seq_rm(self._memory, sequence, after, -1))

    def close(self) -> None:
        """Give all memory back. No further call may follow."""
        for free, name in (
            ("llama_batch_ext_free", "_batch"),
            ("llama_free", "_context"),
            ("llama_model_free", "_model"),
        ):
            if address := getattr(self, name):
                getattr(self._llama, free)(address)
                setattr(self, name, None)
