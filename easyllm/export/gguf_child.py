"""llama.cpp's own converter, run as it is, with three things it cannot know by itself.

``python gguf_child.py CONVERTER MODEL OUT OUTTYPE WORDS``; WORDS is JSON: {"pre", "eos", "eot"}.

It tells pre-tokenizers by a hash of what they make of one text, so it knows no tokenizer trained at home, though it
knows the way such a one cuts: ``pre`` names that way where the hash is unknown (conversion/base.py,
get_vocab_base_pre). It takes the end of an answer from the base's files, of which a tuned model may have another. And
it asks a GPT-2 for its ``n_ctx`` (conversion/gpt2.py), which transformers 5 calls ``n_positions`` alone.
"""

import json
import runpy
import sys
from pathlib import Path
from typing import Any


def main(converter: str, model: str, out: str, outtype: str, words: str) -> None:
    """Writes OUT."""
    said = json.loads(words)
    folder = Path(converter).parent
    sys.path[:0] = [str(folder), str(folder / "gguf-py")]
    _name_the_pre_tokenizer(said["pre"])
    _say_where_answers_end({name: said[name] for name in ("eos", "eot") if said[name] is not None})
    _say_how_long_a_gpt2_reads()
    sys.argv = [converter, model, "--outfile", out, "--outtype", outtype]
    runpy.run_path(converter, run_name="__main__")


def _name_the_pre_tokenizer(pre: str | None) -> None:
    from conversion.base import TextModel  # type: ignore[import-not-found]  # of the converter's folder

    known = TextModel.get_vocab_base_pre

    def named(self: Any, tokenizer: Any) -> str:
        try:
            return str(known(self, tokenizer))
        except NotImplementedError:
            if pre is None:
                raise
            return pre

    TextModel.get_vocab_base_pre = named


def _say_how_long_a_gpt2_reads() -> None:
    from conversion.base import ModelBase

    known = ModelBase.load_hparams

    def told(*arguments: Any, **named: Any) -> dict[str, Any]:
        found: dict[str, Any] = known(*arguments, **named)
        return {"n_ctx": found["n_positions"]} | found if "n_positions" in found else found

    ModelBase.load_hparams = staticmethod(told)


def _say_where_answers_end(ends: dict[str, int]) -> None:
    from gguf import SpecialVocab

    known = SpecialVocab.add_to_gguf

    def ended(self: Any, writer: Any, quiet: bool = False) -> None:
        self.special_token_ids |= ends
        known(self, writer, quiet)

    SpecialVocab.add_to_gguf = ended


if __name__ == "__main__":
    main(*sys.argv[1:])
