"""A hostfile as DeepSpeed and MPI read it: one ``HOST slots=N`` a line, # before a comment."""

import re
from pathlib import Path

from easyllm.core.errors import refuse

LINE = re.compile(r"^(\S+)\s+slots=(\d+)\s*(#.*)?$")
KEY = "cluster.hostfile"


def read_hostfile(path: Path, stage: str) -> dict[str, int]:
    """Ranks by host, in the file's order. UserError for a file that is not there and a line that is none."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise refuse("CLUSTER-009", stage=stage, key=KEY, path=str(path), reason=reason) from error
    slots: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = LINE.match(line.strip())
        if found is None or int(found[2]) < 1 or found[1] in slots:
            raise refuse("CLUSTER-010", stage=stage, key=KEY, file=path, line=number, line_text=line.strip())
        slots[found[1]] = int(found[2])
    return slots


def hostfile_text(hosts: tuple[str, ...], slots: int) -> str:
    """A hostfile of ``hosts`` with as many ``slots`` on each."""
    return "".join(f"{host} slots={slots}\n" for host in hosts)
