"""The command line: dispatches to an experiment, ``report`` or ``speed``."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Callable

from . import experiments, launching
from .errors import STOPPED, CannotRun
from .experiment_options import parse_plan
from .value_checks import nearest

PACKAGES = ("rich", "matplotlib", "scipy")
INSTALL = 'pip install "torch-gnt[demo]"'


def main(arguments: list[str]) -> int:
    """Run a command. Returns its exit status."""
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_overview())
            return 0 if arguments else 2
        name, rest = arguments[0], arguments[1:]
        if name in COMMANDS:
            return COMMANDS[name](rest)
        if name not in experiments.NAMES:
            raise CannotRun(f"unknown experiment {name!r}{nearest(name, [*experiments.NAMES, *COMMANDS])}")
        return _run(name, rest)
    except CannotRun as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # such as a path that is too long, or a folder that must not be read
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        print(f"error: the package {error.name} is missing. {INSTALL}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. Run the same command again to continue.", file=sys.stderr)
        return STOPPED


def _speed(arguments: list[str]) -> int:
    from .speed import command

    return command.main(arguments)


def _report(arguments: list[str]) -> int:
    from .report import command

    return command.main(arguments)


COMMANDS: dict[str, Callable[[list[str]], int]] = {"report": _report, "speed": _speed}
"""Commands that are not experiments."""


def _overview() -> str:
    from . import report, speed

    lines = ["usage: python -m benchmarks EXPERIMENT [settings]", ""]
    lines += [f"  {name:28} {experiments.settings_class(name).help}" for name in experiments.NAMES]
    lines += [f"  {name:28} {module.HELP}" for name, module in (("report", report), ("speed", speed))]
    return "\n".join([*lines, "", "Settings of an experiment: python -m benchmarks EXPERIMENT --help"])


def _check_requirements(parsed: argparse.Namespace) -> None:
    """Check before training what is needed after it: packages, TensorBoard, the file of the picture."""
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(name=package)
    if parsed.tensorboard:
        from .tensorboard import summary_writer

        summary_writer()
    if parsed.picture is not None and parsed.picture.is_dir():
        raise CannotRun(f"--picture {parsed.picture} is a folder; give the name of a file")


def _run(experiment: str, arguments: list[str]) -> int:
    from .comparison import Comparison

    plan, parsed = parse_plan(experiment, arguments)
    _check_requirements(parsed)
    repeated = [each for each in arguments if each != "--fresh"]
    comparison = Comparison(plan, parsed.out, shlex.join(["python", "-m", "benchmarks", experiment, *repeated]))
    launcher = launching.make_launcher(
        parsed.launcher, parsed.workers, parsed.checkpoint_every, tensorboard=parsed.tensorboard
    )
    status = comparison.execute(launcher, fresh=parsed.fresh, quiet=parsed.quiet, picture=parsed.picture)
    if parsed.tensorboard:
        from .tensorboard import write_missing

        write_missing(comparison.runs)
    return status
