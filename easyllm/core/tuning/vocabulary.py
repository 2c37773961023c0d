"""A base whose tokenizer has more tokens than the base has rows: its embeddings and its head grow."""

from typing import Any


def rows(model: Any) -> int:
    """Rows of the embedding: the token ids that the model knows."""
    return int(model.get_input_embeddings().weight.shape[0])


def grow(model: Any, vocabulary: int | None) -> bool:
    """Give ``model`` at least ``vocabulary`` rows, in place; True where it grew.

    New rows are drawn around the mean of the old ones, with their covariance (transformers' mean_resizing): such a
    token is unlikely at first, and disturbs no other (nlp.stanford.edu/~johnhew/vocab-expansion.html).
    """
    if vocabulary is None or vocabulary <= rows(model):
        return False
    model.resize_token_embeddings(vocabulary, mean_resizing=True)
    return True


def ends(model: Any) -> list[str]:
    """Paths of the embedding and of the output head, in that order."""
    found = (model.get_input_embeddings(), model.get_output_embeddings())
    return [name for end in found for name, module in model.named_modules() if module is end]


def tied(model: Any) -> bool:
    """Whether the output head is the embedding, used the other way round."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight
