"""SIGTERM while training: finish the step, save, end. Slurm, Kubernetes and ``easyllm`` itself send it."""

import signal
from typing import Any


class StopOnRequest:
    """Catches SIGTERM for the life of the process; ``agreed`` says whether any rank was asked."""

    def __init__(self) -> None:
        self._asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: Any) -> None:
        self._asked = True

    def agreed(self) -> bool:
        """Every rank calls it after the same step: all of them save, or none."""
        import torch
        import torch.distributed as dist

        asked = torch.tensor(float(self._asked))
        if dist.get_backend() == "nccl":
            asked = asked.cuda()
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return bool(asked)
