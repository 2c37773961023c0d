"""The layout of transformers 4: the same weights, and a config and a tokenizer that 4.51 and TGI 3.3.7 read rightly.

transformers 5 saves ``rope_parameters`` where 4 looks for ``rope_theta``: 4 takes 10000 without a word.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from easyllm.core.artifact import write_whole
from easyllm.core.errors import refuse
from easyllm.core.families.weights import weight_files

READER = {"transformers": "4.51.3", "tokenizers": "0.21.4", "huggingface-hub": "0.31.1"}
"""What reads it, and in which versions it is proven: those that TGI 3.3.7 pins. docker/versions.env says them too."""

TWO_ROPES = ("gemma3_text",)
"""Families of which 4.51 reads a second rope, for local attention, in a field of its own."""


def make_v4(model: Path, template: str | None, out: Path) -> None:
    """Write the layout into ``out``. UserError EXPORT-002 where 4.51 has no words for it."""
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "config.json", v4_config(_read(model / "config.json")))
    generation = model / "generation_config.json"
    if generation.is_file():
        _write(out / "generation_config.json", _read(generation) | {"transformers_version": READER["transformers"]})
    shutil.copyfile(model / "tokenizer.json", out / "tokenizer.json")
    _write(out / "tokenizer_config.json", v4_tokenizer_config(_tokenizer_config(model), template))
    if template:
        # huggingface/text-generation-inference#3247: it reads tokenizer_config.json or chat_template.json, never .jinja
        write_whole(out / "chat_template.jinja", template)
        _write(out / "chat_template.json", {"chat_template": template})
    for file in [*weight_files(model), *model.glob("*.safetensors.index.json")]:
        place(file, out / file.name)


def _tokenizer_config(model: Path) -> dict[str, Any]:
    """Of an older model there may be tokenizer.json alone."""
    path = model / "tokenizer_config.json"
    return _read(path) if path.is_file() else {}


def v4_config(config: dict[str, Any]) -> dict[str, Any]:
    """config.json with what 4 looks for at its top level, beside what 5 looks for."""
    made = dict(config) | {"transformers_version": READER["transformers"]}
    dtype = config.get("dtype") or config.get("torch_dtype")
    if dtype:
        made |= {"dtype": dtype, "torch_dtype": dtype}
    rope = config.get("rope_parameters")
    return made | _rope(config, rope) if rope else made


def _rope(config: dict[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    family = str(config.get("model_type"))
    if not any(isinstance(value, dict) for value in rope.values()):
        return _one_rope(family, rope)
    full, local = rope.get("full_attention"), rope.get("sliding_attention")
    if family not in TWO_ROPES or not full or not local or local.get("rope_type", "default") != "default":
        raise refuse("EXPORT-002", stage="export", key="export.layouts", family=family, what=", ".join(sorted(rope)))
    return _one_rope(family, full) | {"rope_local_base_freq": local["rope_theta"]}


def _one_rope(family: str, rope: dict[str, Any]) -> dict[str, Any]:
    left = {name: value for name, value in rope.items() if name not in ("rope_theta", "partial_rotary_factor")}
    scaled = left.get("rope_type", "default") != "default"
    made = {"rope_theta": rope["rope_theta"], "rope_scaling": left if scaled else None}
    share = rope.get("partial_rotary_factor")
    if share is not None:
        made["partial_rotary_factor"] = share
    if family == "gpt_neox":  # its older names for the same two
        made |= {"rotary_emb_base": rope["rope_theta"]} | ({} if share is None else {"rotary_pct": share})
    return made


def v4_tokenizer_config(config: dict[str, Any], template: str | None) -> dict[str, Any]:
    """tokenizer_config.json for a class that 4.51 has and that takes tokenizer.json as it is."""
    made = {name: value for name, value in config.items() if name not in ("backend", "is_local", "local_files_only")}
    extra = made.get("extra_special_tokens")
    if isinstance(extra, list):  # 5 says a list where 4 wants names
        del made["extra_special_tokens"]
        made["additional_special_tokens"] = extra
    # The class's own default names token_type_ids, which generate() refuses for these models.
    made |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    return made | ({"chat_template": template} if template else {})


def place(source: Path, target: Path) -> None:
    """The same file under another name: a hard link, which costs no room, or a copy on another disk."""
    source = source.resolve()  # a hub's cache holds links
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def _write(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
