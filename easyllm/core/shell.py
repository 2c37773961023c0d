"""Command lines as a person pastes them into a shell."""

import shlex


def line(command: list[str], env: dict[str, str] | None = None, note: str = "") -> str:
    """``NAME=value command ...  # note``, quoted where the shell would read it otherwise."""
    settings = [f"{name}={shlex.quote(value)}" for name, value in (env or {}).items()]
    return " ".join([*settings, shlex.join(command)]) + (f"  # {note}" if note else "")


def continued(head: str, options: list[str], indent: str = "  ") -> str:
    """``head`` and after it a line for every option with its values; words are quoted already."""
    lines = [[head]]
    for word in options:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(word)
    return f" \\\n{indent}".join(" ".join(words) for words in lines)
