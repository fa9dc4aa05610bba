"""Starts worker processes. On Linux they are forks of one process that has imported torch, so that a run begins in
moments; elsewhere each imports torch itself, which takes seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

# torch._dynamo: the first step of an optimizer imports it
IMPORTED_BEFORE: Final = ["torch", "torch._dynamo", "gnt", "benchmarks.worker"]
HAS_FORK_SERVER: Final = sys.platform == "linux"  # on macOS, libraries of the system do not work after a fork


def make_context() -> Any:
    """The context of the worker processes, for `start`."""
    if not HAS_FORK_SERVER:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED_BEFORE)
    _ensure_fork_server()  # so that it imports while the command prepares
    return context


def start(context: Any, function: Callable[..., None], *arguments: Any) -> Any:
    """Start a process that calls ``function``. Ctrl-C does not end it; SIGTERM does, unless the function handles it."""
    process = context.Process(target=_call, args=(function, arguments), daemon=True)
    if HAS_FORK_SERVER:
        _ensure_fork_server()
        process.start()  # waits until the fork server has imported its modules, so Ctrl-C must not be ignored here
        return process
    with _ignored(signal.SIGINT):
        process.start()
    return process


def _ensure_fork_server() -> None:
    """Start the fork server if there is none, or if it was killed. Does not wait for its imports."""
    from multiprocessing import forkserver

    with _ignored(signal.SIGINT, signal.SIGTERM), _one_blas_thread():
        forkserver.ensure_running()


def _call(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the fork server ignores it
    function(*arguments)


@contextmanager
def _ignored(*numbers: signal.Signals) -> Iterator[None]:
    """While these signals are ignored, processes that are started inherit that."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: the handler was not set from Python


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """A process that is started meanwhile creates no threads on import of numpy, so that it can be forked safely."""
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
