"""How one copy of a model is spread over ranks. No torch here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """The parts of one copy; the default is one rank that holds everything."""

    tensor: int = 1
    """Ranks that hold a part of every matrix."""
    pipeline: int = 1
    """Ranks in a row, each with its share of the layers."""
    virtual_pipeline: int = 1
    """Shares of the layers that each rank of the row holds; more than one interleaves them."""
    context: int = 1
    """Ranks that hold a part of every sequence."""
    sequence: bool = False
    """Whether tensor parallel ranks also share the work between the matrices: norms and dropout."""

    @property
    def model_ranks(self) -> int:
        """Ranks of one copy of the model."""
        return self.tensor * self.pipeline * self.context
