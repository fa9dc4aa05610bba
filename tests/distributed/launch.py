"""Starts torchrun on one of the scenario modules and reads back what its ranks reported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]


def torchrun(scenario: str, folder: Path, *args: Any, ranks: int = 2, dies: bool = False) -> Any:
    """Run ``tests.distributed.<scenario>`` on ``ranks`` processes -> what each rank reported, by rank; of several
    scenarios (``module.a+b``) a dict of that.

    Warnings are errors there, too. A run that hangs is killed, and is a failure. One that ``dies`` reports nothing.
    """
    module, name = scenario.split(".")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += ["-m", f"tests.distributed.{module}", name, str(folder), *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode != 0) == dies, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    names = [] if dies else name.split("+")
    reports = {each: [torch.load(folder / f"{each}-{rank}.pt") for rank in range(ranks)] for each in names}
    return reports if len(reports) != 1 else reports[name]
