"""The command line: which experiment, with which settings. Unknown names are answered with the nearest known
ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from benchmarks import experiments
from benchmarks.errors import CannotRun
from benchmarks.parsing import Parser
from benchmarks.settings import METHODS, OUT, as_flags, changed, concerning, flag, nearest, one_of, real

SECONDS = real("a number of seconds, 0 or more", lambda value: value >= 0)
INSTALL = 'pip install "torch-gnt[demo]"'


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit status."""
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_overview())
            return 0 if arguments else 2
        experiment = arguments[0]
        if experiment == "speed":
            from benchmarks.speed import command

            return command.main(arguments[1:])
        if experiment not in experiments.NAMES:
            raise CannotRun(f"unknown experiment {experiment!r}{nearest(experiment, [*experiments.NAMES, 'speed'])}")
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
    from benchmarks import speed

    lines = ["usage: python -m benchmarks EXPERIMENT [settings]", ""]
    lines += [f"  {name:28} {experiments.settings_class(name).help}" for name in experiments.NAMES]
    lines.append(f"  {'speed':28} {speed.HELP}")
    return "\n".join([*lines, "", "Settings of an experiment: python -m benchmarks EXPERIMENT --help"])


def _parse(experiment: str, arguments: list[str]) -> argparse.Namespace:
    cls = experiments.settings_class(experiment)
    parser = Parser(
        prog=f"python -m benchmarks {experiment}",
        description=f"{experiment}: {cls.help}. Defaults take {cls.time}; the published setting is "
        f"{as_flags(cls.published)}. Ctrl-C stops; the same command goes on from there.",
    )
    for field in dataclasses.fields(cls):
        parser.add(
            flag(field.name),
            type=field.metadata["check"],
            default=argparse.SUPPRESS,  # the dataclass has the defaults
            metavar=type(field.default).__name__.upper(),
            help=f"{field.metadata['help']} (default: {field.default})",
        )
    parser.add("--methods", nargs="+", type=one_of(*METHODS), default=METHODS, metavar="NAME", help=" ".join(METHODS))
    parser.add("--out", type=Path, default=OUT, metavar="DIR", help=f"folder of results (default: {OUT})")
    parser.add("--picture", type=Path, metavar="FILE", help="write the picture to this file as well")
    parser.add("--fresh", action="store_true", help="start over, forgetting earlier runs with these settings")
    parser.add(
        "--checkpoint-every", type=SECONDS, default=5.0, metavar="SECONDS", help="how often to save (default: 5.0)"
    )
    parser.add("--quiet", action="store_true", help="no moving bars: a line when something is complete, for logs")
    return parser.parse(arguments)


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
