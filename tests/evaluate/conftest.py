"""Lets these tests import the helper that the tests around tuning share."""

import sys
from pathlib import Path

HELPERS = str(Path(__file__).parents[1])
if HELPERS not in sys.path:
    sys.path.insert(0, HELPERS)
