"""NEFTune: noise on the embeddings while training (arXiv 2310.05914)."""

from typing import Any

import torch

from easyllm.core.batches import Batch


class EmbeddingNoise:
    """Adds noise to what the embeddings of ``model`` give, as long as it trains; ``batch`` says how long rows are.

    A row of L tokens and d numbers a token gets noise between -1 and 1 times alpha / sqrt(L d). L counts the row's
    own tokens: neither padding nor the neighbours in a packed batch. The draws are the generator's that states keep.
    """

    def __init__(self, model: Any, alpha: float) -> None:
        self.batch: Batch | None = None
        self._alpha = alpha
        model.get_input_embeddings().register_forward_hook(self._add)

    def _add(self, embeddings: torch.nn.Module, _: Any, output: torch.Tensor) -> torch.Tensor:
        if self.batch is None or not embeddings.training:
            return output
        size = self._alpha / (self._lengths(self.batch, output) * output.shape[-1]) ** 0.5
        noise = torch.empty_like(output).uniform_(-1, 1)
        return output + noise * size[..., None].to(output.dtype)

    @staticmethod
    def _lengths(batch: Batch, output: torch.Tensor) -> torch.Tensor:
        """Of the row that each token stands in: [rows, tokens] or [rows, 1]."""
        if batch.lengths:
            lengths = torch.tensor(batch.lengths, device=output.device)
            return lengths.repeat_interleave(lengths)[None].float()
        if batch.attention_mask is None:
            return torch.full((1, 1), float(output.shape[1]), device=output.device)
        return batch.attention_mask.sum(dim=1, keepdim=True).float().to(output.device)
