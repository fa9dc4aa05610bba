"""The entry of ``python -m benchmarks``."""

from __future__ import annotations

import sys

from benchmarks.cli import main

# Worker processes import this file again under another name; only the command itself may start work.
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
