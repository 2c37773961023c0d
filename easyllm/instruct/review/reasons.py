"""Why a row goes, as reviewers say it most: one key each, the same names in every log."""

REASONS = (
    "wrong answer",
    "unhelpful answer",
    "unclear instruction",
    "answer to another question",
    "cut off or badly formed",
    "too much like another row",
    "harmful or unfair",
    "personal data of someone",
    "language or style",
)
"""English names, written to the log as a decision's note; ``term`` knows them in every language."""
