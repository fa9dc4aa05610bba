"""Entry point of ``python -m benchmarks``."""

from __future__ import annotations

import sys

from .cli import main

# Worker processes import this file under another name; they must not run the command again.
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
