"""Models become scores and answers that a person can compare."""
