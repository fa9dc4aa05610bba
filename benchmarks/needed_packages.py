"""The packages of the extra ``benchmarks``, which commands need beside gnt."""

from __future__ import annotations

import importlib.util
from typing import Final

PACKAGES: Final = ("rich", "matplotlib", "scipy")
INSTALL: Final = 'pip install "torch-gnt[benchmarks]"'


def check_installed() -> None:
    """Raise `ModuleNotFoundError` if one of them is missing, before anything is executed or written."""
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(name=package)
