"""Runs a scenario module with torchrun and loads the results of its ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]


def torchrun(scenario: str, folder: Path, *args: Any, ranks: int = 2, dies: bool = False) -> Any:
    """Run ``tests.distributed.<scenario>`` on ``ranks`` processes.

    Returns the results of the ranks, in order; for several scenarios (``module.a+b``) a dict of them by name. Warnings
    are errors in the processes. A run that hangs is killed and fails. With ``dies`` the run must fail, without results.
    """
    module, name = scenario.split(".")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += ["-m", f"tests.distributed.{module}", name, str(folder), *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode != 0) == dies, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    names = [] if dies else name.split("+")
    results = {each: [torch.load(folder / f"{each}-{rank}.pt") for rank in range(ranks)] for each in names}
    return results if len(results) != 1 else results[name]
