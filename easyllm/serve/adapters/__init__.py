"""LoRA adapters of the served model, chosen by each request."""
