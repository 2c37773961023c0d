"""An API key in the environment: it stands nowhere else, and not every text can be sent as one."""

import os

from easyllm.core.messages import say


def key_to_send(variable: str) -> str:
    """The key in that environment variable. Raises ValueError, which says why, where it holds none that can be sent."""
    key = os.environ.get(variable, "").strip()  # a file that it was read from leaves a line's end behind it
    if not key:
        raise ValueError(say("key_unset"))
    if not key.isascii() or not key.isprintable():  # neither may stand in a header
        raise ValueError(say("key_unsendable"))
    return key
