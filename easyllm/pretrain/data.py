"""Megatron's GPTDataset over the corpus, and the micro batch that each rank takes of it."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

from easyllm.pretrain.split import ratio

COLUMNS = ("tokens", "labels", "loss_mask", "position_ids")


class LedgerTokenizer:
    """The three facts that Megatron's datasets ask of a tokenizer, from the corpus' ledger."""

    def __init__(self, vocab_size: int, eod: int) -> None:
        self.vocab_size = vocab_size
        self.eod = eod
        self.pad = eod  # no padding token: Megatron then pads with -1 and masks only that
        self.unique_identifiers = OrderedDict(vocab_size=vocab_size, eod=eod)


def datasets(
    prefix: Path,
    tokenizer: LedgerTokenizer,
    sequence_tokens: int,
    wanted: tuple[int, int],
    share: float | None,
    seed: int,
    cache: Path,
) -> tuple[GPTDataset, GPTDataset | None]:
    """Samples of ``sequence_tokens`` tokens for training and, with a ``share`` of the documents, for validation.

    ``wanted`` of each, or more: whole epochs. Every rank calls it: the first builds the index in ``cache``, the
    others read it. The order depends on the seed, the corpus, the share and ``wanted`` only, so a count of consumed
    samples is the whole position in the data.
    """  # fmt: skip
    config = GPTDatasetConfig(
        random_seed=seed,
        sequence_length=sequence_tokens,
        blend=([str(prefix)], None),
        split=ratio(share),  # checked: a split with no document makes Megatron loop for ever
        path_to_cache=str(cache),
        tokenizer=tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,  # the layers make the causal mask themselves
        num_dataset_builder_threads=1,
        mmap_bin_files=True,
    )
    train, held_out, _ = BlendedMegatronDatasetBuilder(GPTDataset, [*wanted, 0], lambda: True, config).build()
    for dataset, samples in zip((train, held_out), wanted, strict=True):
        if samples and len(dataset) < samples:
            raise RuntimeError(f"{prefix} gave {len(dataset)} samples where {samples} were asked")
    return train, held_out


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
