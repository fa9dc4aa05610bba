"""Entry point of ``python -m gnt``."""

from __future__ import annotations

import sys

from gnt.diagnosis import run_command

if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:]))
