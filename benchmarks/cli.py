"""The command line: which experiment, with which settings. Unknown names are answered with the nearest known
ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import NoReturn

from benchmarks import experiments
from benchmarks.errors import CannotRun
from benchmarks.settings import METHODS, OUT, as_flags, changed, concerning, flag, nearest, one_of, real

SECONDS = real("a number of seconds, 0 or more", lambda value: value >= 0)
INSTALL = 'pip install "torch-gnt[demo]"'


class _Parser(argparse.ArgumentParser):
    """Errors in two lines: what is wrong, and where help is."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}\nAll settings: {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit status."""
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_overview())
            return 0 if arguments else 2
        experiment = arguments[0]
        if experiment not in experiments.NAMES:
            raise CannotRun(f"unknown experiment {experiment!r}{nearest(experiment, experiments.NAMES)}")
        return _run(experiment, _parse(experiment, arguments[1:]))
    except CannotRun as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in ("rich", "matplotlib"):
            raise
        print(f"error: the package {error.name} is missing. {INSTALL}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        return 130


def _overview() -> str:
    lines = ["usage: python -m benchmarks EXPERIMENT [settings]", ""]
    lines += [f"  {name:28} {experiments.settings_class(name).help}" for name in experiments.NAMES]
    return "\n".join([*lines, "", "Settings of an experiment: python -m benchmarks EXPERIMENT --help"])


def _parse(experiment: str, arguments: list[str]) -> argparse.Namespace:
    cls = experiments.settings_class(experiment)
    parser = _Parser(
        prog=f"python -m benchmarks {experiment}",
        description=f"{experiment}: {cls.help}. Defaults take {cls.time}; the published setting is "
        f"{as_flags(cls.published)}. Ctrl-C stops; the same command goes on from there.",
        allow_abbrev=False,
    )
    actions = [
        parser.add_argument(
            flag(field.name),
            type=field.metadata["check"],
            default=argparse.SUPPRESS,  # the dataclass has the defaults
            metavar=type(field.default).__name__.upper(),
            help=f"{field.metadata['help']} (default: {field.default})",
        )
        for field in dataclasses.fields(cls)
    ]
    add = parser.add_argument
    actions += [
        add(
            "--methods",
            nargs="+",
            type=one_of(*METHODS),
            default=METHODS,
            metavar="NAME",
            help=" ".join(METHODS),
        ),
        add("--out", type=Path, default=OUT, metavar="DIR", help=f"folder of results (default: {OUT})"),
        add("--picture", type=Path, metavar="FILE", help="write the picture to this file as well"),
        add("--fresh", action="store_true", help="start over, forgetting earlier runs with these settings"),
        add(
            "--checkpoint-every", type=SECONDS, default=5.0, metavar="SECONDS", help="how often to save (default: 5.0)"
        ),
        add("--quiet", action="store_true", help="no moving bars: a line when something is complete, for logs"),
    ]
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [action.option_strings[0] for action in actions]
        parser.error(f"unknown setting {unknown[0]}{nearest(unknown[0].partition('=')[0], known)}")
    return parsed


def _run(experiment: str, parsed: argparse.Namespace) -> int:
    from benchmarks.comparison import Comparison

    cls = experiments.settings_class(experiment)
    names = {field.name for field in dataclasses.fields(cls)}
    settings = cls(**{name: value for name, value in vars(parsed).items() if name in names})
    methods = [method for method in METHODS if method in parsed.methods]
    unused = changed(settings, METHODS).keys() - concerning(settings, methods).keys()
    if unused:
        raise CannotRun(f"{', '.join(map(flag, sorted(unused)))}: of no effect on {' and '.join(methods)}.")
    return Comparison(experiment, settings, methods, parsed.out).command(
        fresh=parsed.fresh,
        quiet=parsed.quiet,
        picture=parsed.picture,
        checkpoint_seconds=parsed.checkpoint_every,
    )
