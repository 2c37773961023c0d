"""Whether the key-value cache fits into the memory that is free: a server must not die of its longest prompts."""

from pathlib import Path

import psutil
import torch

from easyllm.core.errors import refuse
from easyllm.serve.limits import Limits, cache_bytes, read_json

CGROUP = Path("/sys/fs/cgroup")


def require_memory(limits: Limits, directory: Path, dtype: torch.dtype, free: int) -> int:
    """Bytes that the cache, once full, leaves of ``free``. Raises UserError SERVE-044 where it takes more than that."""
    needed = cache_bytes(limits, read_json(directory / "config.json"), dtype.itemsize)
    if needed <= free:
        return free - needed
    asked = limits.concurrent_requests * limits.total_tokens
    raise refuse(
        "SERVE-044", stage="serve", key="serve.max_concurrent_requests", requests=limits.concurrent_requests,
        total=limits.total_tokens, needed=round(needed / 1e6), free=round(free / 1e6), asked=asked,
        fits=asked * free // needed,
    )  # fmt: skip


def free_bytes(device: torch.device, cgroup: Path = CGROUP) -> int:
    """Memory that can still be taken on ``device``: of the machine, or of the container where that has less."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    allowed = container_bytes(cgroup)
    return free if allowed is None else min(free, allowed)


def container_bytes(cgroup: Path) -> int | None:
    """What the container may still take; None where nothing limits it. Cached files give way, so they count as free."""
    try:
        most = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        lines = (cgroup / "memory.stat").read_text().splitlines()
    except OSError:
        return None  # no container, or a kernel with the first kind of control groups
    if not most.isdigit():  # it says "max"
        return None
    cached = sum(int(line.split()[1]) for line in lines if line.split()[0] in ("active_file", "inactive_file"))
    return max(0, int(most) - used + cached)
