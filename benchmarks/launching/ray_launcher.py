"""Executes runs as tasks of a Ray cluster, one CPU each: `pip install "torch-gnt[ray]"`.

The cluster is the one at RAY_ADDRESS, otherwise one that runs on this machine, otherwise one that is started for this
command. torch and gnt must be installed on its nodes in the same versions; a checkout sends its benchmarks/ to them.
The folder of results must be on a file system shared by all nodes, so that a run can be continued on any node.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..command_name import INSTALLED
from ..errors import CannotRun
from ..run import Run
from ..worker import FINAL_MESSAGES
from .ray_nodes import check_nodes
from .ray_tasks import Mailbox, execute_run

INSTALL = '--launcher ray needs the package ray: pip install "torch-gnt[ray]"'
_CHECKOUT = Path(__file__).resolve().parent.parent
_OBJECT_STORE = 80 * 2**20  # bytes; only messages are stored
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class RayLauncher:
    """Executes runs as tasks of a Ray cluster."""

    def __init__(self, workers: int | None, checkpoint_seconds: float, *, tensorboard: bool) -> None:
        self._ray = _import()
        self._options = (checkpoint_seconds, tensorboard)
        self._temporary: str | None = None
        self._runs: dict[str, _RemoteRun] = {}
        self._checked: set[Path] = set()
        self._connect(workers)
        self.slots = workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self._mailbox = self._ray.remote(Mailbox).options(num_cpus=0).remote()
        self._make = self._ray.remote(execute_run).options(num_cpus=1, max_retries=0)

    def _connect(self, workers: int | None) -> None:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        common: dict[str, Any] = {
            "runtime_env": {} if INSTALLED else {"py_modules": [str(_CHECKOUT)], "excludes": ["__pycache__", "*.png"]},
            "log_to_driver": False,
            "logging_level": "error",
        }
        address = os.environ.get("RAY_ADDRESS")
        try:
            _check_address(address)
            self._ray.init(address=address or "auto", **common)
        except OSError as error:  # includes ConnectionError
            if address:
                raise CannotRun(f"There is no Ray cluster at RAY_ADDRESS={address}: {error}") from None
            self._temporary = tempfile.mkdtemp(prefix="ray-")  # for Ray's sockets and logs
            self._ray.init(
                address="local",
                num_cpus=workers,
                object_store_memory=_OBJECT_STORE,
                include_dashboard=False,
                _temp_dir=self._temporary,
                **common,
            )

    def start(self, run: Run) -> None:
        """Start the run as soon as the cluster has a free CPU.

        Raises:
            CannotRun: a node does not see the folder of results, or has other versions.
        """
        there = replace(run, out=run.out.resolve())
        if there.out not in self._checked:
            check_nodes(self._ray, there.out)
            self._checked.add(there.out)
        name = uuid.uuid4().hex
        self._runs[name] = _RemoteRun(run, self._make.remote(there, self._mailbox, name, *self._options))

    def messages(self, timeout: float) -> list[tuple[Run, tuple[Any, ...]]]:
        """Messages that arrived within ``timeout`` seconds."""
        futures = {remote.future: name for name, remote in self._runs.items()}
        ended: list[Any] = []
        if futures:
            ended, _ = self._ray.wait(list(futures), num_returns=len(futures), timeout=timeout)
        received = []
        messages = self._ray.get(self._mailbox.take_for_command.remote())  # after the wait: includes final messages
        for name, message in messages:
            if name in self._runs:
                self._runs[name].started = True
                received.append((self._runs[name].run, message))
                if message[0] in FINAL_MESSAGES:
                    del self._runs[name]
        for future in ended:
            remote = self._runs.pop(futures[future], None)
            if remote is not None:  # it sent no final message
                received.append((remote.run, self._failure(future)))
        return received

    def _failure(self, future: Any) -> tuple[str, str]:
        try:
            self._ray.get(future)
        except self._ray.exceptions.RayTaskError as error:
            return ("failed", str(error))
        except self._ray.exceptions.RayError as error:
            return ("died", f"{type(error).__name__}: {error}".splitlines()[0])
        return ("died", "without a message")

    def request_stop(self, run: Run) -> None:
        """Ask a run to save and stop. One that waits for a CPU or has not started training is cancelled."""
        for name, remote in self._runs.items():
            if remote.run == run:
                self._mailbox.put_for_run.remote(name, "stop")
                if not remote.started:
                    self._ray.cancel(remote.future, force=True)

    def kill(self, run: Run) -> None:
        """End the run immediately. Its files are consistent at any moment."""
        for name, remote in list(self._runs.items()):
            if remote.run == run:
                self._ray.cancel(remote.future, force=True)
                del self._runs[name]

    def close(self) -> None:
        """Disconnect from the cluster; end it if it was started for this command."""
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._mailbox)
        self._ray.shutdown()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


@dataclass
class _RemoteRun:
    """A run that has been submitted to the cluster."""

    run: Run
    future: Any
    started: bool = False


def _check_address(address: str | None) -> None:
    """Raise OSError if nothing listens at the address; Ray itself would wait for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _import() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise CannotRun(INSTALL) from None
    return ray
