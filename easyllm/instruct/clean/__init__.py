"""Rows are judged: what a filter finds about a row, with the numbers and words behind it."""
