"""What the tests of instruct share."""

from browser import browser

__all__ = ["browser"]
