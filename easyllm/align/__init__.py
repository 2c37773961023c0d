"""Preference pairs and a model become a better model (not built yet)."""
