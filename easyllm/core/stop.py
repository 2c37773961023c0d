"""SIGTERM while training: finish the step, save, end. Slurm, Kubernetes and ``easyllm`` itself send it."""

import signal
import threading
from typing import Any


class StopOnRequest:
    """Catches SIGTERM until it is closed; ``agreed`` says whether any rank was asked."""

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():  # elsewhere no signal can be caught
            self._before = signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: Any) -> None:
        self._asked = True

    def agreed(self) -> bool:
        """Every rank calls it after the same step: all of them save, or none."""
        import torch
        import torch.distributed as dist

        if not dist.is_initialized():
            return self._asked
        asked = torch.tensor(float(self._asked))
        if dist.get_backend() == "nccl":
            asked = asked.cuda()
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return bool(asked)

    def close(self) -> None:
        """SIGTERM does again what it did before."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
