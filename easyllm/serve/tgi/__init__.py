"""The API of text-generation-inference: what it takes, what it answers, and its routes."""
