"""``python -m easyllm`` and the ``easyllm`` command."""

import sys

from easyllm.cli import main


def run() -> None:
    sys.exit(main())


if __name__ == "__main__":
    run()
