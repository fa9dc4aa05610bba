"""The command ``gnt``, also ``python -m gnt``: experiments, the plasticity check, and the configuration."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence

from gnt._kernels import show_config
from gnt._version import __version__
from gnt.diagnosis import run_command

HELP = """\
usage: gnt COMMAND [arguments]

  run EXPERIMENT    train methods on an experiment of the literature and compare them; gnt run lists the experiments
  report            write a page with tables and pictures of all finished runs, beside published values
  speed             measure what a training step costs with gnt, against the same step without it
  check SCRIPT      measure whether a network still learns as a new one does
  config            show versions, kernels and devices in use on this machine

  --help            show this text; gnt COMMAND --help explains a command
  --version         show the version

Results go to the folder results in the current directory, and the page to the folder report; run, report and speed take
other folders with --out DIR, --to DIR and --output FILE.
run, report and speed need further packages: pip install "torch-gnt[benchmarks]"
Exit status: 0 if done, 2 after an error, which is one line, and 130 after Ctrl-C."""

COMMANDS = ("run", "report", "speed", "check", "config")
READER_GONE = 141  # exit status if what reads the output has ended, as of a command that SIGPIPE ends


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit status.

    Args:
        arguments: the words after ``gnt``; those of this process by default.
    """
    try:
        status = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes the output once more when it ends, and would report the error again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    return status


def _run(arguments: list[str]) -> int:
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help"):
        print(HELP)
        return 0
    if name in ("--version", "config") and rest and rest[0] not in ("-h", "--help"):
        return _error(f"gnt {name} takes no arguments, got {rest[0]!r}")
    if name == "--version":
        print(f"gnt {__version__}")
        return 0
    if name == "config":
        if rest:
            print("usage: gnt config\n\nShow versions, kernels and devices in use on this machine (gnt.show_config).")
        else:
            show_config()
        return 0
    if name == "check":
        return run_command(arguments)
    if name in COMMANDS:
        from gnt.benchmarks import cli  # imported here: gnt itself does not need it

        return cli.run_experiment(rest) if name == "run" else cli.main(arguments)
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else "."
    return _error(f"unknown command {name!r}{hint} Commands: {', '.join(COMMANDS)}")


def _error(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
