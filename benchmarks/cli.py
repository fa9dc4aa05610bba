"""The command line: dispatches to an experiment, ``report`` or ``speed``.

In a checkout it is ``python -m benchmarks``, called with `main`. In an installed gnt it is ``gnt``, which calls
`run_experiment` for ``gnt run``, and `main` for ``gnt report`` and ``gnt speed``.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Mapping

from . import experiments, launching
from .command_name import command_text
from .errors import STOPPED, CannotRun
from .experiment_options import parse_plan
from .needed_packages import INSTALL, PACKAGES, check_installed
from .settings import OUT
from .value_checks import nearest

Commands = Mapping[str, Callable[[list[str]], int]]
READER_GONE = 141  # exit status if what reads the output has ended, as of a command that SIGPIPE ends


def main(arguments: list[str]) -> int:
    """Run an experiment or another command. Returns its exit status."""
    return _handling_errors(arguments, COMMANDS)


def run_experiment(arguments: list[str]) -> int:
    """Run an experiment; without arguments, list the experiments. Returns its exit status."""
    return _handling_errors(arguments or ["--help"], {})


def _handling_errors(arguments: list[str], commands: Commands) -> int:
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):  # characters that the encoding lacks become "?"
            sys.stdout.reconfigure(errors="replace")
        status = _dispatch(arguments, commands)
        if sys.stdout is not None:  # it is closed
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # what reads the output has ended, as head does
        # Python flushes the output once more when it ends, and would report the error again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
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


def _dispatch(arguments: list[str], commands: Commands) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(commands))
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name in commands:
        return commands[name](rest)
    if name not in experiments.NAMES:
        raise CannotRun(f"unknown experiment {name!r}{nearest(name, [*experiments.NAMES, *commands])}")
    return _run(name, rest)


def _speed(arguments: list[str]) -> int:
    from .speed import command

    return command.main(arguments)


def _report(arguments: list[str]) -> int:
    from .report import command

    return command.main(arguments)


COMMANDS: Commands = {"report": _report, "speed": _speed}
"""Commands that are not experiments."""


def _overview(commands: Commands) -> str:
    from . import report, speed

    lines = [f"usage: {command_text('EXPERIMENT')} [settings]", ""]
    lines += [f"  {name:28} {experiments.settings_class(name).help}" for name in experiments.NAMES]
    others = (("report", report), ("speed", speed))
    lines += [f"  {name:28} {module.HELP}" for name, module in others if name in commands]
    lines += ["", f"Settings of an experiment: {command_text('EXPERIMENT', '--help')}"]
    return "\n".join([*lines, f"Results go to the folder {OUT} in the current directory, or to that of --out."])


def _check_requirements(parsed: argparse.Namespace) -> None:
    """Check before training what is needed after it: packages, TensorBoard, the file of the picture."""
    check_installed()
    if parsed.tensorboard:
        from .tensorboard import summary_writer

        summary_writer()
    if parsed.picture is not None and parsed.picture.is_dir():
        raise CannotRun(f"--picture {parsed.picture} is a folder; give the name of a file")


def _run(experiment: str, arguments: list[str]) -> int:
    plan, parsed = parse_plan(experiment, arguments)
    _check_requirements(parsed)
    from .comparison import Comparison  # imports rich

    repeated = [each for each in arguments if each != "--fresh"]
    comparison = Comparison(plan, parsed.out, command_text(experiment, *repeated))
    launcher = launching.make_launcher(
        parsed.launcher, parsed.workers, parsed.checkpoint_every, tensorboard=parsed.tensorboard
    )
    status = comparison.execute(launcher, fresh=parsed.fresh, quiet=parsed.quiet, picture=parsed.picture)
    if parsed.tensorboard:
        from .tensorboard import write_missing

        write_missing(comparison.runs)
    return status
