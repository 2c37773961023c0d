"""The transformers that layout v4 is for, installed once into a folder of its own that all tests share."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from easyllm.export.proving import command
from easyllm.export.v4 import READER


def v4_packages() -> Path:
    """The folder; made on first use, under another name until it is whole."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "easyllm-tests"
    final = root / "-".join(["v4", *READER.values()])
    if not final.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=final.name, dir=root))
        subprocess.run([sys.executable, "-m", *command(partial).split(), "--quiet"], check=True)
        try:
            partial.rename(final)
        except OSError:  # another test run was faster
            assert final.is_dir()
    return final
