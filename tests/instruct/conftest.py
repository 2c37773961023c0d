"""What the tests of instruct share."""

from browser import browser
from review_page import start

__all__ = ["browser", "start"]
