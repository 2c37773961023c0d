"""A model becomes what others read: the layout of transformers 4, GGUF files, a model card, a folder for a hub."""
