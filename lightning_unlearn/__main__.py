"""``python -m lightning_unlearn``; the command itself is in ``cli``."""

import sys

from lightning_unlearn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
