"""The recipes that ship, their data, and built-in data made on the spot."""
