"""A Megatron checkpoint becomes a Hugging Face model, proven by parity."""
