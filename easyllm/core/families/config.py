"""config.json becomes an architecture record, and a record the keyword arguments of a configuration class. No torch."""

import json
from pathlib import Path
from typing import Any

from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.families.table import REQUIRED, Family
from easyllm.core.families.tables import FAMILIES, NOT_EXPRESSED
from easyllm.core.megatron.architecture import Architecture, padded_vocabulary

CONFIG = "config.json"
ROPE_THETA = 10000.0
ROPE_TYPES = ("default", "linear", "llama3", "dynamic")
"""dynamic is default up to max_position_embeddings, and no longer sequence is trained or compared."""


class Refused(Exception):
    """A model that Megatron-Core's cannot express; ``problem`` says why, for a place in a recipe."""

    def __init__(self, code: str, **numbers: Any) -> None:
        super().__init__(code)
        self._code, self._numbers = code, numbers

    def problem(self, stage: str, key: str, path: Path) -> Problem:
        return problem(self._code, stage=stage, key=key, path=str(path), **self._numbers)


def read_architecture(
    directory: Path, stage: str, key: str, tensor_parallel: int = 1, dtype: str = "float32"
) -> Architecture:
    """Of the Hugging Face model in ``directory``. UserError CONVERT-010 to -014, or INPUT-001 without config.json."""
    path = directory / CONFIG
    if not path.is_file():
        raise UserError(problem("INPUT-001", stage=stage, key=key, ref=CONFIG, path=str(path)))
    try:
        return architecture_of(json.loads(path.read_text("utf-8")), tensor_parallel, dtype)
    except ValueError as error:
        raise UserError(problem("CONVERT-014", stage=stage, key=key, path=str(path), reason=str(error))) from error
    except Refused as refusal:
        raise UserError(refusal.problem(stage, key, path)) from refusal


def family_of(config: dict[str, Any]) -> Family:
    """Raises Refused where there is no table."""
    model_type = str(config.get("model_type"))
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    if model_type in NOT_EXPRESSED:
        raise Refused("CONVERT-011", family=model_type, what=NOT_EXPRESSED[model_type])
    raise Refused("CONVERT-010", family=model_type, known=", ".join(FAMILIES))


def architecture_of(config: dict[str, Any], tensor_parallel: int = 1, dtype: str = "float32") -> Architecture:
    """The model that a config.json describes. Raises Refused for what Megatron-Core cannot express.

    Its dropout is none: how a model is trained on is the recipe's to say.
    """
    family = family_of(config)
    for key, possible in family.only.items():
        if config.get(key, possible[0]) not in possible:
            raise Refused("CONVERT-012", name=key, value=config[key], possible=" or ".join(map(str, possible)))
    fields: dict[str, Any] = {**family.fixed, "rope_theta": None, **_rope(config, family)}
    for name, source in family.keys.items():
        derived = source.default if callable(source.default) else None
        value = config.get(source.name, None if derived else source.default) if source.name else None
        if value is REQUIRED:
            raise Refused("CONVERT-013", name=source.name)
        fields[name] = derived(fields) if value is None and derived else value
    return Architecture(
        family=family.written_as or family.model_type,
        **fields,
        dropout=0.0,
        padded_vocabulary=padded_vocabulary(fields["tokenizer_size"], tensor_parallel),
        tensor_parallel=tensor_parallel,
        dtype=dtype,
        special_ids=_special_ids(config),
    )


def _rope(config: dict[str, Any], family: Family) -> dict[str, Any]:
    if not family.rope:
        return {}
    # transformers 5 writes rope_parameters; before, rope_scaling held the same without the base.
    said = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = said.pop("type", None)  # the oldest name
    kind = said.pop("rope_type", None) or kind or "default"
    if kind not in ROPE_TYPES:
        raise Refused("CONVERT-012", name="rope_type", value=kind, possible=" or ".join(ROPE_TYPES))
    theta = said.pop("rope_theta", None) or config.get("rope_theta") or config.get("rotary_emb_base") or ROPE_THETA
    share = said.pop("partial_rotary_factor", None) or config.get("partial_rotary_factor") or config.get("rotary_pct")
    scaling = {"rope_type": kind, **said} if kind != "default" else None
    return {"rope_theta": float(theta), "rope_share": float(share or family.rope_share), "rope_scaling": scaling}


def _special_ids(config: dict[str, Any]) -> dict[str, int]:
    """``eod`` is what ends a text; a model that lists several ends begins the list with it."""
    named = {"bos": config.get("bos_token_id"), "eod": config.get("eos_token_id"), "pad": config.get("pad_token_id")}
    first = {name: ids[0] if isinstance(ids, list) else ids for name, ids in named.items()}
    return {name: int(number) for name, number in first.items() if number is not None}


def hf_config(a: Architecture) -> dict[str, Any]:
    """Keyword arguments of the family's configuration class, special token ids apart."""
    family = FAMILIES[a.family]
    said: dict[str, Any] = {key: values[0] for key, values in family.only.items()}
    said |= {key.name: getattr(a, name) for name, key in family.keys.items() if key.name}
    said |= dict.fromkeys(family.dropouts, a.dropout)
    if family.rope:
        share = {} if a.rope_share == 1.0 else {"partial_rotary_factor": a.rope_share}
        scaling = a.rope_scaling or {"rope_type": "default"}
        said["rope_parameters"] = {**scaling, "rope_theta": a.rope_theta, **share}
    return said
