"""An argument parser with short error messages: what is wrong, and the command that shows the help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from .value_checks import nearest


class Parser(argparse.ArgumentParser):
    """Argument parser without abbreviations; an unknown option is reported with the most similar known one."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        self.known: list[str] = []

    def add(self, name: str, **options: object) -> None:
        """Add an argument, and remember its name for error messages."""
        self.add_argument(name, **options)  # type: ignore[arg-type]
        self.known.append(name)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse the command line."""
        parsed, unknown = self.parse_known_args(arguments)
        if unknown:
            self.error(f"unknown setting {unknown[0]}{nearest(unknown[0].partition('=')[0], self.known)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with status 2."""
        print(f"error: {message} (all settings: {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)
