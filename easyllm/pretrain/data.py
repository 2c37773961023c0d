"""Megatron's datasets over the corpus, and the micro batch that each rank takes of it."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

from easyllm.pretrain.blends import PARTS, Blends, Source
from easyllm.pretrain.split import ratio

Dataset: TypeAlias = "GPTDataset | BlendedDataset"

COLUMNS = ("tokens", "labels", "loss_mask", "position_ids")


class LedgerTokenizer:
    """The three facts that Megatron's datasets ask of a tokenizer, from the corpus' ledger."""

    def __init__(self, vocab_size: int, eod: int) -> None:
        self.vocab_size = vocab_size
        self.eod = eod
        self.pad = eod  # no padding token: Megatron then pads with -1 and masks only that
        self.unique_identifiers = OrderedDict(vocab_size=vocab_size, eod=eod)


def datasets(
    blends: Blends,
    tokenizer: LedgerTokenizer,
    sequence_tokens: int,
    wanted: Mapping[str, int],
    share: float | None,
    seed: int,
    cache: Path,
) -> dict[str, Dataset]:
    """Samples of ``sequence_tokens`` tokens for each part of which some are ``wanted``: so many, or more.

    With a ``share`` of the documents for validation, that is cut from the part for training. Every rank calls it: the
    first builds the index in ``cache``, the others read it. The order depends on the seed, the corpus, the share and
    ``wanted`` only, so a count of consumed samples is the whole position in the data.
    """
    asked = {part: wanted.get(part, 0) for part in PARTS}
    # Checked: a split with no document makes Megatron loop for ever.
    where: dict[str, Any] = (
        {"blend_per_split": [_blend(getattr(blends, part)) if asked[part] else None for part in PARTS]}
        if share is None
        else {"blend": _blend(blends.train), "split": ratio(share)}
    )
    config = GPTDatasetConfig(
        **where,
        random_seed=seed,
        sequence_length=sequence_tokens,
        path_to_cache=str(cache),
        tokenizer=tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,  # the layers make the causal mask themselves
        num_dataset_builder_threads=1,
        mmap_bin_files=True,
    )
    made = BlendedMegatronDatasetBuilder(GPTDataset, list(asked.values()), lambda: True, config).build()
    found = {part: dataset for part, dataset in zip(PARTS, made, strict=True) if asked[part]}
    for part, dataset in found.items():
        if len(dataset) < asked[part]:
            raise RuntimeError(f"the part {part} gave {len(dataset)} samples where {asked[part]} were asked")
    return found


def _blend(sources: tuple[Source, ...]) -> tuple[list[str], list[float] | None]:
    """As Megatron takes it; weights only where there is something to weigh."""
    weights = [source.weight for source in sources] if len(sources) > 1 else None
    return [str(source.prefix) for source in sources], weights


def micro_batches(
    dataset: Dataset, consumed: int, count: int, micro: int, data_parallel: int, rank: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    """The ``count`` micro batches of data parallel ``rank`` in the step that begins at sample ``consumed``.

    Each value is [micro, sequence_tokens].
    """
    for index in range(count):
        first = consumed + (index * data_parallel + rank) * micro
        rows = [dataset[first + j] for j in range(micro)]
        yield {name: torch.stack([row[name] for row in rows]).to(device) for name in COLUMNS}
