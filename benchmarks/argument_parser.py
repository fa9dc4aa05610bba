"""Command lines whose errors take two lines: what is wrong, and where help is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from benchmarks.value_checks import nearest


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations, that answers an unknown setting with the nearest known one."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        self.known: list[str] = []

    def add(self, name: str, **options: object) -> None:
        """`add_argument`, and remember its name."""
        self.add_argument(name, **options)  # type: ignore[arg-type]
        self.known.append(name)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """All settings of the command line."""
        parsed, unknown = self.parse_known_args(arguments)
        if unknown:
            self.error(f"unknown setting {unknown[0]}{nearest(unknown[0].partition('=')[0], self.known)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Print the error and leave with status 2."""
        print(f"error: {message}\nAll settings: {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)
