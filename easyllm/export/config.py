"""What can be asked of an export."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from easyllm.core.inputs import Takes
from easyllm.core.section import Section, distinct

Gguf = Literal["f16", "q8_0", "q4_k_m"]
SHARE = {"f16": 1.0, "q8_0": 0.54, "q4_k_m": 0.4}
"""Of 16 bits a weight, rounded up."""


class Card(Section):
    """What only a person can say in a model card; the rest is read from the manifests."""

    license: str | None = None
    """Licence of the model, as the hub names it (apache-2.0, mit, other, ...). Unset: the base's own card is asked."""
    language: list[str] = Field(default=[])
    """Languages it speaks, such as en and zh."""
    base_model: str | None = None
    """Hub name of the model it was made from, such as HuggingFaceTB/SmolLM2-135M-Instruct."""
    datasets: list[str] = Field(default=[])
    """Hub names of the data sets it was trained on."""
    tags: list[str] = Field(default=[])
    """More words to find it by."""
    title: str | None = None
    """Heading of the card. Unset: the recipe's name."""
    about: str | None = None
    """A paragraph in your own words: what it is for, and what it must not be used for."""


class Hub(Section):
    """The folder that one command uploads."""

    repo: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the repository on the hub, such as org/name."""


class ExportConfig(Section):
    """A model in the forms that other programs read, each proven to say the same, and a folder ready for a hub."""

    model: Annotated[str, Takes("model", "model")] = "merge"
    """The model: a stage (merge, convert, a full finetune), a directory, hf:, modelscope: or package:NAME."""
    layouts: Annotated[list[Literal["v4"]], AfterValidator(distinct)] = Field(default=["v4"])
    """Folders for older readers. v4: for transformers 4.51 and TGI 3.3.7, which read wrongly what 5 saves."""
    v4_packages: Annotated[str | None, Takes("artifact", foreign=True)] = None
    """Folder with transformers 4.51.3 of its own, in which layout v4 is proven. Unset: the one in the cache, if any."""
    gguf: Annotated[list[Gguf], AfterValidator(distinct)] = Field(default=[])
    """GGUF files for llama.cpp, each proven in llama.cpp itself."""
    card: Card = Card()
    """Fields of the model card."""
    scores: Annotated[str | None, Takes("artifact", "scores")] = None
    """The evaluation whose table stands in the card: a stage or its directory."""
    hub: Hub | None = None
    """Unset: the folder is made all the same, without a repository's name in it."""
