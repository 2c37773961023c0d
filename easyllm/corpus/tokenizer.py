"""The tokenizer of the corpus: learned from it, or a Hugging Face one taken as it is."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from easyllm.core.errors import UserError, problem
from easyllm.corpus.config import TrainTokenizer

END_OF_DOCUMENT = "<|endoftext|>"


def learn(texts: Iterator[str], wanted: TrainTokenizer) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (Radford et al. 2019) of at most ``wanted.vocab_size`` ids, end token first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=wanted.vocab_size,
        min_frequency=wanted.min_frequency,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_DOCUMENT,
        eos_token=END_OF_DOCUMENT,
        pad_token=END_OF_DOCUMENT,
        clean_up_tokenization_spaces=False,
    )


def load(directory: Path, stage: str) -> Any:
    """The fast tokenizer in ``directory``; CORPUS-005 when it is not one, or has no end token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _refused(directory, stage, str(error).splitlines()[0][:200]) from error
    if not tokenizer.is_fast:
        raise _refused(directory, stage, "not a fast tokenizer")
    if tokenizer.eos_token_id is None:
        raise _refused(directory, stage, "no end token (eos_token)")
    return tokenizer


def _refused(directory: Path, stage: str, reason: str) -> UserError:
    key = "corpus.tokenizer.model"
    return UserError(problem("CORPUS-005", stage=stage, key=key, path=str(directory), reason=reason))


def save(tokenizer: Any, directory: Path) -> None:
    """Write the tokenizer as AutoTokenizer reads it: beside, then renamed, so a kill leaves none or a whole one."""
    beside = directory.with_name(f"{directory.name}.half")
    shutil.rmtree(beside, ignore_errors=True)
    tokenizer.save_pretrained(beside)
    beside.rename(directory)


def encoder(tokenizer: Any) -> Tokenizer:
    """The engine under ``tokenizer``, set to take special tokens written in a text as the plain text they are.

    A document that quotes "<|endoftext|>" must not end there.
    """
    engine = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    engine.encode_special_tokens = True
    engine.no_truncation()
    engine.no_padding()
    return engine


def ledger(tokenizer: Any, dtype: str) -> dict[str, Any]:
    """The vocabulary ledger: what pretraining needs to pad the vocabulary and conversion to cut it again."""
    special = {name: tokenizer.convert_tokens_to_ids(token) for name, token in tokenizer.special_tokens_map.items()}
    return {
        "tokenizer_size": len(tokenizer),
        "special": special,
        "eod_id": tokenizer.eos_token_id,
        "dtype": dtype,
    }
