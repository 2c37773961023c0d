"""Megatron's GPTDataset over the corpus, and the micro batch that each rank takes of it."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

COLUMNS = ("tokens", "labels", "loss_mask", "position_ids")


class LedgerTokenizer:
    """The three facts that Megatron's datasets ask of a tokenizer, from the corpus' ledger."""

    def __init__(self, vocab_size: int, eod: int) -> None:
        self.vocab_size = vocab_size
        self.eod = eod
        self.pad = eod  # no padding token: Megatron then pads with -1 and masks only that
        self.unique_identifiers = OrderedDict(vocab_size=vocab_size, eod=eod)


def training_samples(
    prefix: Path, tokenizer: LedgerTokenizer, sequence_tokens: int, samples: int, seed: int, cache: Path
) -> GPTDataset:
    """``samples`` samples (or more: whole epochs) of ``sequence_tokens`` tokens; all documents are for training.

    Every rank calls it: the first builds the index in ``cache``, the others read it. The order depends on the
    seed, the corpus and ``samples`` only, so a count of consumed samples is the whole position in the data.
    """
    config = GPTDatasetConfig(
        random_seed=seed,
        sequence_length=sequence_tokens,
        blend=([str(prefix)], None),
        split="100,0,0",  # a split with no document makes Megatron loop for ever when samples are asked of it
        path_to_cache=str(cache),
        tokenizer=tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,  # the layers make the causal mask themselves
        num_dataset_builder_threads=1,
        mmap_bin_files=True,
    )
    train, _, _ = BlendedMegatronDatasetBuilder(GPTDataset, [samples, 0, 0], lambda: True, config).build()
    if len(train) < samples:
        raise RuntimeError(f"{prefix} gave {len(train)} samples where {samples} were asked")
    return train


def micro_batches(
    dataset: GPTDataset, consumed: int, count: int, micro: int, data_parallel: int, rank: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    """The ``count`` micro batches of data parallel ``rank`` in the step that begins at sample ``consumed``.

    Each value is [micro, sequence_tokens].
    """
    for index in range(count):
        first = consumed + (index * data_parallel + rank) * micro
        rows = [dataset[first + j] for j in range(micro)]
        yield {name: torch.stack([row[name] for row in rows]).to(device) for name in COLUMNS}
