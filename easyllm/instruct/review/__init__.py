"""The gate: a person decides on every row, or on a sample of them, before anything is trained on them."""
