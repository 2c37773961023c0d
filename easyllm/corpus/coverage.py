"""Which ids of a vocabulary say that a text was not in its reach."""

import json

from tokenizers import Tokenizer


def doubtful_ids(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(ids of the unknown token, ids that stand for one byte of a character the vocabulary does not have).

    A byte-level vocabulary has neither: its bytes are its alphabet.
    """
    model = json.loads(tokenizer.to_str())["model"]
    unknown = model.get("unk_id")
    if unknown is None and model.get("unk_token") is not None:
        unknown = tokenizer.token_to_id(model["unk_token"])
    found = (tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)) if model.get("byte_fallback") else ()
    return (() if unknown is None else (int(unknown),)), tuple(int(id) for id in found if id is not None)
