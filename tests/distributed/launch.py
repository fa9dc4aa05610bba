"""Runs a scenario module in several processes of one process group and loads the results of its ranks."""

from __future__ import annotations

import contextlib
import os
import runpy
import secrets
import socket
import sys
import traceback
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from tests.helpers.fork_server import fork_server

TIMEOUT = 240  # seconds


def run_ranks(scenario: str, folder: Path, *args: Any, ranks: int = 2, dies: bool = False) -> Any:
    """Run ``tests.distributed.<scenario>`` on ``ranks`` processes, with the environment variables that torchrun sets.

    Returns the results of the ranks, in order; for several scenarios (``module.a+b``) a dict of them by name. Warnings
    are errors in the processes. If a rank fails or hangs, all are killed. With ``dies`` a rank must fail.
    """
    module, name = scenario.split(".")
    arguments = [name, str(folder), *map(str, args)]
    processes = [
        fork_server().Process(target=_run_rank, args=(module, arguments, variables))
        for variables in rank_variables(ranks)
    ]
    failed = fails(processes)
    errors = "\n".join(file.read_text() for file in sorted(folder.glob("errors-*.txt")))
    assert failed == dies, f"{scenario}: exit codes {[process.exitcode for process in processes]}\n{errors}"
    names = [] if dies else name.split("+")
    results = {each: [torch.load(folder / f"{each}-{rank}.pt") for rank in range(ranks)] for each in names}
    return results if len(results) != 1 else results[name]


def fails(processes: Sequence[BaseProcess]) -> bool:
    """Start the processes and wait for them. Whether one fails or hangs; all are killed then."""
    for process in processes:
        process.start()
    running = {process.sentinel: process for process in processes}
    failed = False
    while running and not failed:
        ended = wait(list(running), timeout=TIMEOUT)
        failed = not ended or any(running.pop(sentinel).exitcode != 0 for sentinel in ended)  # type: ignore[index, arg-type]
    for process in processes:
        process.kill()
        process.join()
    return failed


def rank_variables(ranks: int) -> list[dict[str, str]]:
    """For each rank the environment variables that torchrun sets."""
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(ranks)}
    quiet = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return [{**common, **quiet, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def _free_port() -> int:
    """Return a port that no process listens to, below those that the system gives to outgoing connections."""
    while True:
        port = secrets.choice(range(20_000, 32_000))
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("localhost", port))
            return port


def _run_rank(module: str, arguments: list[str], variables: dict[str, str]) -> None:
    """Run a scenario module as the main module of this process."""
    os.environ.update(variables)
    sys.argv[1:] = arguments
    with Path(arguments[1], f"errors-{variables['RANK']}.txt").open("w") as errors:
        sys.stderr = errors
        try:
            runpy.run_module(f"tests.distributed.{module}", run_name="__main__")
        except BaseException:
            traceback.print_exc()
            errors.flush()
            os._exit(1)
