"""The folder that one ``hf upload`` puts on a hub: the model at its top, GGUF files beside it, the card."""

import shutil
from pathlib import Path

from easyllm.core.artifact import write_whole
from easyllm.core.messages import say
from easyllm.core.models import MODEL_FILES
from easyllm.core.progress import note
from easyllm.core.stage import Job
from easyllm.export.card import CURVE
from easyllm.export.config import ExportConfig
from easyllm.export.v4 import place

LARGE = ("*.safetensors", "*.gguf", "*.png")
OURS = ("manifest.json", "parity.json", "label_audit.json")
"""Of our artifacts: they name paths of this machine."""


def make_folder(job: Job[ExportConfig], model: Path, readme: str, curve: Path | None) -> Path:
    """hub/ in the stage's output; says the command that uploads it."""
    out = job.out / "hub"
    out.mkdir()
    source = job.out / "v4" if job.config.layouts else model
    files = {file for pattern in MODEL_FILES for file in source.glob(pattern) if file.name not in OURS}
    for file in sorted(files | set((job.out / "gguf").glob("*.gguf"))):
        place(file, out / file.name)
    if curve is not None:
        shutil.copyfile(curve, out / CURVE)
    write_whole(out / "README.md", readme)
    write_whole(out / ".gitattributes", "".join(f"{name} filter=lfs diff=lfs merge=lfs -text\n" for name in LARGE))
    if job.config.hub:
        note(say("export_hub", repo=job.config.hub.repo, path=job.run_dir / job.stage / "hub"))
    return out
