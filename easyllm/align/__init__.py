"""Preference pairs and a model become a model, or an adapter, that prefers what people chose."""
