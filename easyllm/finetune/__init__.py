"""Instruction rows and a model become an adapter or a model."""
