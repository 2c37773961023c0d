"""easyllm carries one language model through its whole life, from raw text to a served answer."""

__version__ = "0.1.0"
