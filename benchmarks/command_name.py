"""How the user starts a command, for messages and pages that name one to run."""

from __future__ import annotations

import shlex
from typing import Final

PACKAGE: Final = __package__ or ""
"""The name of this package: ``benchmarks`` in a checkout, ``gnt.benchmarks`` in an installed gnt."""

INSTALLED: Final = PACKAGE != "benchmarks"
"""Whether the user's command is ``gnt``, not ``python -m benchmarks``."""


def command_text(name: str, *arguments: str) -> str:
    """A command line with an experiment, ``report`` or ``speed``.

    >>> command_text("speed", "--only", "two words")
    "python -m benchmarks speed --only 'two words'"
    """
    if not INSTALLED:
        start = ["python", "-m", "benchmarks"]
    else:
        start = ["gnt"] if name in ("report", "speed") else ["gnt", "run"]
    return shlex.join([*start, *([name] if name else []), *arguments])
