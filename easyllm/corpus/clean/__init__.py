"""Documents that are not worth training on, dropped by datatrove's blocks before a tokenizer sees them."""
