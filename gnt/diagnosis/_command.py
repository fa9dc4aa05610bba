"""`gnt check`: the plasticity check of a script's network, from the command line."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from gnt.diagnosis._arguments import MEASURES
from gnt.diagnosis._fresh import FRESH
from gnt.diagnosis._plasticity_check import plasticity_check
from gnt.diagnosis._result import PlasticityCheck

FAILED = 2  # exit status after an error
STOPPED = 130  # exit status after Ctrl-C, as in shells
_NEEDED = ("model", "optimizer", "data")
_INSIDE = ("state_dict", "model_state_dict", "model", "net")  # where checkpoints keep the network's state
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")

_SCRIPT = """\
The script defines

    def model(): ...              builds the network; for --checkpoint, with its architecture
    def optimizer(params): ...    a torch optimizer for these parameters
    def data(): ...               batches (x, y): a DataLoader, a data set, tensors (x, y), or an iterable
    loss = ...                    a function (output, y), "cross_entropy" or "mse"; not for Hugging Face models

and, if model() loads trained weights,

    def reinitialize(net): ...    gives a network new initial values; otherwise fresh networks are those of model()

Example: gnt check train.py --checkpoint last.pt --picture check.png
"""


class _CannotRun(Exception):
    """A problem that the user can solve, in one line."""


class _Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with status 2."""
        print(f"{self.prog}: {message} (all arguments: {self.prog} --help)", file=sys.stderr)
        raise SystemExit(FAILED)


def run_command(arguments: Sequence[str]) -> int:
    """Run ``gnt check`` with the arguments ["check", ...], and return the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help()
        return 0
    try:
        with _script_alone(given.script), contextlib.redirect_stdout(sys.stderr if given.json else sys.stdout):
            result = _check(given)
        print(json.dumps(_as_json(result), indent=2) if given.json else result, flush=True)
        if given.picture is not None:
            result.draw(given.picture)
    except KeyboardInterrupt:
        print("gnt check: stopped", file=sys.stderr)
        return STOPPED
    except Exception as error:
        if given.traceback:
            raise
        kind = "" if isinstance(error, (_CannotRun, ModuleNotFoundError)) else f"{type(error).__name__}: "
        print(f"gnt check: {kind}{' '.join(str(error).split())}", file=sys.stderr)
        return FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gnt", description="Tools of gnt for trained networks.")
    commands = parser.add_subparsers(dest="command", metavar="command")
    check = commands.add_parser(
        "check",
        help="does a network still learn as a fresh one does?",
        description="Measure whether a network has lost plasticity (gnt.plasticity_check; see docs/diagnosis.md).",
        epilog=_SCRIPT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("script", type=Path, help="a Python file, see below")
    check.add_argument(
        "--checkpoint",
        type=Path,
        help="file of torch.save: the network's state_dict, or a dict with it (see docs/diagnosis.md)",
    )
    check.add_argument("--fresh", choices=FRESH, default="data", help="what is learned (default: data)")
    check.add_argument("--steps", type=int, default=300, help="steps of each copy (default: 300)")
    check.add_argument("--seeds", type=int, default=5, help="number of seeds (default: 5)")
    check.add_argument("--batches", type=int, help="number of batches to learn, over and over")
    check.add_argument("--head", action="append", help="path of an output layer; may be repeated")
    check.add_argument(
        "--measure",
        choices=MEASURES,
        help="what is compared (default: error, the share of wrong classes, if targets are classes)",
    )
    check.add_argument("--json", action="store_true", help="print the result as JSON")
    check.add_argument("--picture", type=Path, help="save a picture, for example check.png (needs matplotlib)")
    check.add_argument("--quiet", action="store_true", help="do not show the cost and the progress")
    check.add_argument("--traceback", action="store_true", help="show where an error comes from")
    return parser


def _check(given: Any) -> PlasticityCheck:
    if not given.script.is_file():
        raise _CannotRun(f"{given.script} is not a file")
    if given.picture is not None and not given.picture.absolute().parent.is_dir():
        raise _CannotRun(f"--picture: the folder {given.picture.parent} does not exist")
    sys.path.insert(0, str(given.script.absolute().parent))  # as Python does for a script
    script = runpy.run_path(str(given.script), run_name="gnt_check")
    missing = [name for name in _NEEDED if not callable(script.get(name))]
    if missing:
        raise _CannotRun(f"{given.script} must define the functions {', '.join(_NEEDED)}, got no {', '.join(missing)}")
    net = script["model"]()
    if not isinstance(net, nn.Module):
        raise _CannotRun(f"model() of {given.script} must return a torch.nn.Module, got {type(net).__name__}")
    if given.checkpoint is not None:
        _load(net, given.checkpoint)
    return plasticity_check(
        net,
        lambda params: script["optimizer"](params),
        script["data"](),
        script.get("loss"),
        steps=given.steps,
        fresh=given.fresh,
        seeds=given.seeds,
        batches=given.batches,
        head=given.head,
        measure=given.measure,
        reinitialize=script.get("reinitialize") or (lambda: script["model"]().to(next(net.parameters()).device)),
        progress=not given.quiet,
    )


@contextlib.contextmanager
def _script_alone(script: Path) -> Iterator[None]:
    """Run code of a script as Python would without arguments: those of this process are not meant for it."""
    arguments, sys.argv = sys.argv, [str(script)]
    try:
        yield
    finally:
        sys.argv = arguments


def _load(net: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise _CannotRun(f"--checkpoint: {path} is not a file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _CannotRun(f"--checkpoint: {path} cannot be read: {error}") from error
    for name in _INSIDE:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
            break
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise _CannotRun(f"--checkpoint: {path} holds no state_dict of a network (nor one in {', '.join(_INSIDE)})")
    own = set(net.state_dict())
    while not own & set(state):  # wrappers lie around wrappers
        prefix = next((each for each in _PREFIXES if all(name.startswith(each) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise _CannotRun(f"--checkpoint: {path} is of another network than model(): {error}") from error


def _as_json(result: PlasticityCheck) -> dict[str, Any]:
    figures = {name: value if math.isfinite(value) else None for name, value in result.to_dict("").items()}
    return {
        "verdict": result.verdict,
        "sentence": result.sentence,
        "measure": result.measure,
        "fresh": result.task,
        "steps": result.steps,
        "seeds": list(result.seeds),
        "head": list(result.head),
        "figures": figures,
        "worst": [{"layer": layer.name, "reasons": list(layer.reasons)} for layer in result.worst],
        "advice": [{"what": each.what, "why": each.why, "where": each.where} for each in result.advice],
        "notes": list(result.notes),
    }
