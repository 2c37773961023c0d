"""One forward pass of a model at a time, whichever thread it runs in."""

import threading
from typing import Any


def one_pass_at_a_time(model: Any) -> None:
    """Let a pass over given tokens (scores, proofs) wait for the engine's pass in its own thread, and the other way.

    transformers 5.23 writes a pass's ``is_causal`` into the model's config while it runs (utils/generic.py,
    merge_with_config_defaults), and the engine's passes say False, for they bring a mask: a plain pass beside one
    sees every token's future, and whichever ends second breaks on a value that is gone, or leaves it there.
    """
    lock = threading.Lock()

    def begin(model: Any, inputs: Any) -> None:
        lock.acquire()

    def end(model: Any, inputs: Any, output: Any) -> None:
        lock.release()

    model.register_forward_pre_hook(begin)
    model.register_forward_hook(end, always_call=True)
