"""Entry point of ``python -m gnt``, which is the command ``gnt``."""

from __future__ import annotations

import sys

from gnt._command import main

# Worker processes import this file under another name; they must not run the command again.
if __name__ == "__main__":
    sys.exit(main())
