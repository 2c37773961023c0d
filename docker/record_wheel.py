"""Write down what a wheel was built against: ``python record_wheel.py NAME SOURCE DIST`` makes DIST/NAME.json.

The passport of every image holds these records against what is installed there. Kept apart from the package, so that
a change of easyllm's code never recompiles DeepSpeed or apex.
"""

import json
import os
import platform
import sys
import zipfile
from pathlib import Path

import torch


def main(name: str, source: str, dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        extensions = [entry for entry in archive.namelist() if entry.endswith(".so")]
    record = {
        "version": wheel.name.split("-")[1],
        "source": source,
        "python": "cp{}{}".format(*platform.python_version_tuple()),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "cxx11_abi": torch.compiled_with_cxx11_abi(),
        "extensions": sorted(extensions),
    }
    if os.environ.get("DS_ACCELERATOR"):
        record["accelerator"] = os.environ["DS_ACCELERATOR"]
    (dist / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
