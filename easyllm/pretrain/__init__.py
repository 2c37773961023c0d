"""Tokens become a checkpoint, with Megatron-Core."""
