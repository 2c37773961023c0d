"""``python -m easyllm`` and the ``easyllm`` command."""

import sys

from easyllm.cli import main

if __name__ == "__main__":
    sys.exit(main())
