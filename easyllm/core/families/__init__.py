"""Model families: what Hugging Face and Megatron-Core call the same model, and how its tensors become the other's.

``table`` holds the shape of a family's table, the other files the tables; ``config`` turns config.json into an
architecture record and back; ``weights`` reads tensors one at a time; ``mapping`` applies a table to them.
"""
