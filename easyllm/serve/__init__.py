"""A model becomes an OpenAI and text-generation-inference endpoint."""
