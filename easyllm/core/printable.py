"""Words of others on a terminal: a model, or a file, may say anything, and a terminal obeys what it is told."""


def printable(text: str, instead: str = " ", keep: str = "") -> str:
    """``text`` with ``instead`` for every character that is not seen (controls, directions), but for those to keep."""
    return "".join(c if c.isprintable() or c in keep else instead for c in text)
