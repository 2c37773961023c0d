"""The one engine that applies a family's table to tensors, in both directions."""
