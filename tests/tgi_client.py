"""text-generation-inference's old client, installed once into a folder of its own that all tests share.

It wants huggingface-hub below 1.0, which transformers 5 refuses: what it does happens in a process of its own.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from easyllm.env.bootstrap import PINS as VERSIONS
from easyllm.env.bootstrap import read_pins

PINS = {"text-generation": "TGI_CLIENT_TEXT_GENERATION", "huggingface-hub": "TGI_CLIENT_HUGGINGFACE_HUB"}


def tgi_client_packages() -> Path:
    """The folder; made on first use, under another name until it is whole. The rest is this environment's own."""
    pins = read_pins(VERSIONS)
    wanted = [f"{package}=={pins[pin]}" for package, pin in PINS.items()]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "easyllm-tests"
    final = root / "-".join(["tgi-client", *[pins[pin] for pin in PINS.values()]])
    if not final.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=final.name, dir=root))
        how = ["install", "--quiet", "--no-deps", "--target", str(partial), *wanted]
        subprocess.run([sys.executable, "-m", "pip", *how], check=True)
        try:
            partial.rename(final)
        except OSError:  # another test run was faster
            assert final.is_dir()
    return final


def run_beside(packages: Path, script: str, *arguments: str) -> str:
    """What ``script`` prints, where the folder's packages stand before all others."""
    environment = os.environ | {"PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "0", "NO_PROXY": "*", "no_proxy": "*"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
