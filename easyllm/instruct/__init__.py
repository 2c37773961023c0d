"""Seed tasks become reviewed instruction rows (not built yet)."""
