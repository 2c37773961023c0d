"""Raw text becomes a tokenizer and indexed tokens that Megatron-Core reads."""
