"""A Megatron checkpoint becomes a Hugging Face model, or such a model a checkpoint, proven by parity."""
