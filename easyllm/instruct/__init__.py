"""Seed tasks become reviewed instruction rows."""
