"""Instruction rows in every form that people keep them in: read, split and written."""
