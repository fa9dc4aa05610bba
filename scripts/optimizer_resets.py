"""Which optimizers' state is reset for replaced units: builds every optimizer of the installed packages and proves it.

    python scripts/optimizer_resets.py                     # counts, and what is refused and why
    python scripts/optimizer_resets.py timm.optim --list   # each optimizer of a package, with the state that is reset
    python scripts/optimizer_resets.py --names             # the list of docs/training_loops.md

Packages that are not installed are left out. Ends with an error if a reset is wrong, or if an optimizer of the tables
could be built but not proved.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import torch  # noqa: E402

from gnt.replacement import known_optimizers  # noqa: E402
from tests.helpers.package_optimizers import PACKAGES, PackageOptimizer, package_optimizers  # noqa: E402
from tests.helpers.reset_proof import PLAIN, prove_reset, resumes  # noqa: E402
from tests.helpers.small_runs import mlp  # noqa: E402

RESET, REFUSED, NOT_RUN, WRONG = "reset", "refused", "not run", "wrong"


class Outcome(NamedTuple):
    """What was found for an optimizer."""

    kind: str
    text: str


def outcome(optimizer: PackageOptimizer) -> Outcome:
    """Prove the reset of one optimizer."""
    try:
        optimizer.build(mlp())
    except Exception as error:  # any: of the optimizer
        if optimizer.way == PLAIN:
            return Outcome(NOT_RUN, f"{type(error).__name__}: {str(error)[:120]}")
    try:
        paths = [path.partition(":")[2] for path in prove_reset(optimizer.build, optimizer.way)]
        if not resumes(optimizer.build, optimizer.way):
            if resumes(optimizer.build, optimizer.way, own_load=False):
                paths.append("(its load_state_dict runs no hooks: load the state of an attached engine by hand)")
            elif resumes(optimizer.build, optimizer.way, engine=False):
                return Outcome(WRONG, "a saved run does not go on bit for bit")
            else:
                paths.append("(its own saved state does not go on bit for bit)")
    except AssertionError as error:
        return Outcome(WRONG, str(error).replace("\n", " ")[:200])
    except Exception as error:  # any: of the optimizer, or refused by the engine
        text = str(error).replace("\n", " ")
        if isinstance(error, TypeError) and "cannot be reset per unit: " in text:
            return Outcome(REFUSED, text.partition("cannot be reset per unit: ")[2].partition(". Known are")[0])
        if isinstance(error, TypeError) and "gnt does not know how to reset" in text:
            return Outcome(REFUSED, text.partition(";")[0])
        return Outcome(NOT_RUN, f"{type(error).__name__}: {text[:120]}")
    return Outcome(RESET, " ".join(paths) or "no state per element")


def main() -> None:
    """Print what was found for each package."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", default=list(PACKAGES), help=f"of {', '.join(PACKAGES)}")
    parser.add_argument("--list", action="store_true", help="print each optimizer")
    parser.add_argument("--names", action="store_true", help="print the names of those that are reset")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    store = torch.distributed.HashStore()  # some of them average over processes
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    wrong = 0
    refused: dict[str, list[str]] = {}
    for module in arguments.modules:
        package = module.partition(".")[0]
        if importlib.util.find_spec(package) is None:
            print(f"{module}: not installed")
            continue
        found = {each.name: outcome(each) for each in package_optimizers(module)}
        known = set(known_optimizers(package))
        for name, result in found.items():
            unproved = result.kind == NOT_RUN and name in known
            wrong += result.kind == WRONG or unproved
            if arguments.list or result.kind == WRONG or unproved:
                print(f"{name:28} {result.kind:8} {result.text}")
            if result.kind in (REFUSED, NOT_RUN):
                refused.setdefault(f"{result.kind}: {result.text}", []).append(f"{package}.{name}")
        gone = known - set(found)
        wrong += len(gone)
        if gone:
            print(f"in the table, but not in the package: {', '.join(sorted(gone))}")
        print_package(module, found, names=arguments.names)
    print()
    for reason, names in refused.items():
        print(f"- {reason}: {', '.join(names)}")
    torch.distributed.destroy_process_group()
    sys.exit(1 if wrong else 0)


def print_package(module: str, found: dict[str, Outcome], *, names: bool) -> None:
    """Print the counts of one package, and the names of the optimizers that are reset."""
    version = importlib.metadata.version(PACKAGES[module]).partition("+")[0]
    reset = sorted(name for name, result in found.items() if result.kind == RESET)
    counts = f"- {module} {version}: {len(reset)} of {len(found)}"
    print(f"{counts}: {', '.join(reset)}" if names else counts)


if __name__ == "__main__":
    main()
