"""The pipelines that turn a teacher's answers into rows: each is a block of its own over one workshop."""
