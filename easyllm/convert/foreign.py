"""A checkpoint of Megatron's, ours or anybody's, opened: its weights, what model they are, what was inferred."""

from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from easyllm.convert.iteration import iteration
from easyllm.convert.legacy import LegacyRanks, OldOrder
from easyllm.convert.megatron_args import NoFamily, NotOurs, architecture_of_arguments
from easyllm.convert.shapes import differing
from easyllm.convert.torch_dist import TorchDist, common_values
from easyllm.convert.torch_file import Unreadable
from easyllm.core.errors import UserError, problem
from easyllm.core.families.tables import FAMILIES
from easyllm.core.families.weights import Weights
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.megatron.files import SAVED
from easyllm.core.messages import say

EMBEDDING = "embedding.word_embeddings.weight"
LISTED = 4


@dataclass(frozen=True)
class Opened:
    """A checkpoint whose tensors have the names and shapes of its architecture."""

    weights: Weights
    architecture: Architecture
    inferred: list[str]
    """What was concluded about a checkpoint that easyllm did not write, in words; empty for our own."""
    step: int | None
    """Optimizer steps it has behind it, where it says so."""


def open_checkpoint(path: Path, tokenizer_size: int | None = None) -> Opened:
    """``path`` is an artifact of pretrain, a directory of Megatron-LM's, or one iteration of either.

    ``tokenizer_size`` is the tokenizer's, for a checkpoint of others: it knows which rows of the vocabulary mean
    something. UserError CONVERT-020 to -027.
    """
    directory = iteration(path)
    try:
        weights, plain = _open(directory)
        architecture, inferred = _architecture(directory, weights, plain, tokenizer_size)
        wrong = differing(weights, architecture)
    except Unreadable as error:
        raise _refused("CONVERT-021", directory, reason=str(error)) from error
    except OldOrder as error:
        raise _refused("CONVERT-022", directory, version=error.args[0]) from error
    if wrong:
        more = len(wrong) - LISTED
        told = "; ".join(wrong[:LISTED]) + (say("and_more", count=more) if more > 0 else "")
        raise _refused("CONVERT-026", directory, differing=told)
    own = plain.get(SAVED)
    step = own.get("step") if isinstance(own, dict) else plain.get("iteration")
    return Opened(weights, architecture, inferred, step if isinstance(step, int) else None)


def open_weights(path: Path) -> Weights:
    """The tensors alone, of a checkpoint whose architecture is known."""
    return _open(iteration(path))[0]


def _open(directory: Path) -> tuple[Weights, dict[str, Any]]:
    if any(directory.glob("mp_rank_*")):
        ranks = LegacyRanks(directory)
        return ranks, ranks.values
    plain = common_values(directory)
    return TorchDist(directory), plain


def _architecture(
    directory: Path, weights: Weights, plain: dict[str, Any], tokenizer_size: int | None
) -> tuple[Architecture, list[str]]:
    own = plain.get(SAVED)
    if isinstance(own, dict) and "architecture" in own:
        return Architecture.from_record(own["architecture"]), []
    arguments = plain.get("args")
    if not isinstance(arguments, Namespace):
        raise _refused("CONVERT-023", directory)
    if EMBEDDING not in weights.names():
        raise Unreadable(say("no_embedding", name=EMBEDDING))
    padded, dtype = weights.shape(EMBEDDING)[0], str(weights.dtype(EMBEDDING)).removeprefix("torch.")
    try:
        a, inferred = architecture_of_arguments(arguments, padded, dtype)
    except NotOurs as error:
        raise _refused("CONVERT-024", directory, name=error.name, value=error.value) from error
    except NoFamily as error:
        families = ", ".join(name for name, family in FAMILIES.items() if family.written_as is None)
        raise _refused("CONVERT-025", directory, model=str(error), families=families) from error
    if tokenizer_size is not None:
        if tokenizer_size > padded:
            raise _refused("CONVERT-027", directory, tokenizer_size=tokenizer_size, rows=padded)
        why = say("inferred_rows_tokenizer", rows=tokenizer_size, padded=padded)
        return replace(a, tokenizer_size=tokenizer_size), [*inferred, why]
    why = "inferred_rows_all" if a.tokenizer_size == padded else "inferred_rows_args"
    return a, [*inferred, say(why, rows=a.tokenizer_size, padded=padded)]


def _refused(code: str, path: Path, **numbers: Any) -> UserError:
    return UserError(problem(code, stage="convert", key="convert.checkpoint", path=str(path), **numbers))
