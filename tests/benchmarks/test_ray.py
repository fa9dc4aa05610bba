"""``--launcher ray`` on a cluster of two nodes: the same records as on this machine, also when stopped and resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.cli import main
from benchmarks.errors import CannotRun
from benchmarks.launching.ray_nodes import check_nodes
from tests.helpers.commands import ROOT, TIMEOUT, command_environment, finish, records, run, start, until
from tests.helpers.finished_runs import planned_runs, train

ray = pytest.importorskip("ray")
Status = tuple[bool, dict[str, str]]
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
COMMAND = ["slowly_changing_regression", "--methods", "l2", "--steps", 2500, "--bin", 250, "--grid", "lr=.01,.003"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment variables with which a command finds the cluster."""
    folder = tempfile.mkdtemp(prefix="ray-")  # the names of pytest's folders are too long for Ray's sockets
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.ray_cluster"],
        cwd=ROOT,
        env={**command_environment(), **QUIET, "RAY_TMPDIR": folder, "RAY_raylet_start_wait_time_s": str(TIMEOUT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        printed = iter(process.stdout.readline, "")
        address = next((line.split()[1] for line in printed if line.startswith("address ")), None)
        assert address is not None, "the cluster did not start"
        yield {"RAY_ADDRESS": address, **QUIET}
    finally:
        process.communicate("", timeout=TIMEOUT)
        shutil.rmtree(folder)


def test_runs_resumed_on_two_nodes_have_the_same_records_as_local_ones(cluster: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "ray"
    command = [*COMMAND, "--launcher", "ray", "--out", out]
    with start(*command, environment=cluster) as process:
        until(lambda: sum(record.count(b"\n") > 2 for record in records(out).values()) == 2, process)
        os.killpg(process.pid, signal.SIGINT)
        output, errors = finish(process, status=130)
    assert errors == ""
    assert output.splitlines()[-1].startswith("Stopped. To continue: python -m benchmarks slowly_changing")
    assert len(list(out.rglob("checkpoint.pt"))) == 2
    assert not any(b'{"end"' in record for record in records(out).values())

    output, errors = run(*command, environment=cluster)
    assert errors == ""
    grid = {"lr": [0.01, 0.003]}
    for each in planned_runs(tmp_path / "local", "slowly_changing_regression", "l2", 1, grid=grid, steps=2500, bin=250):
        train(each)
    assert records(out) == records(tmp_path / "local")
    assert not list(out.glob(".*"))
    nodes = [json.loads(file.read_text())["hardware"]["node"] for file in out.rglob("about.json")]
    assert len(nodes) == len(set(nodes)) == 2


class InlineRay:
    """Stands for the module ray: two nodes whose tasks run in this process, with ``changed`` results."""

    exceptions = ray.exceptions

    def __init__(self, changed: Callable[[Status], Status]) -> None:
        self.changed = changed

    def nodes(self) -> list[dict[str, object]]:
        alive = [{"Alive": True, "NodeID": "0" * 56, "NodeManagerAddress": f"10.0.0.{number}"} for number in (1, 2)]
        return [*alive, {"Alive": False, "NodeID": "1" * 56, "NodeManagerAddress": "10.0.0.3"}]

    def remote(self, function: Callable[[Path], Status]) -> SimpleNamespace:
        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=partial(partial, function)))

    def get(self, task: Callable[[], Status], timeout: float) -> Status:
        return self.changed(task())


class LocalDisk(type(Path())):  # type: ignore[misc]
    """A folder that other nodes do not see: what is written there does not appear."""

    def write_text(self, text: str, *options: object, **named: object) -> int:
        return len(text)


def other_torch(status: Status) -> Status:
    return status[0], {**status[1], "torch": "1.0"}


def unreachable(status: Status) -> Status:
    raise ray.exceptions.RaySystemError("no answer")


@pytest.mark.parametrize(
    ("folder", "changed", "message"),
    [
        (
            LocalDisk,
            lambda status: status,
            "10.0.0.1 does not see {}: give --out a folder on a file system",
        ),
        (Path, other_torch, "10.0.0.1 has gnt .*, torch 1.0, python .*; here is gnt .*. Install the same versions."),
        (Path, unreachable, "10.0.0.1 does not answer .RaySystemError: .*no answer"),
    ],
    ids=["other folder", "other versions", "no answer"],
)
def test_unsuitable_nodes_are_refused(folder, changed, message: str, tmp_path: Path) -> None:
    check_nodes(InlineRay(lambda status: status), tmp_path)
    with pytest.raises(CannotRun, match=f"The Ray node {message.format(tmp_path)}"):
        check_nodes(InlineRay(changed), folder(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_missing_cluster_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert main([*map(str, COMMAND), "--launcher", "ray", "--out", str(tmp_path)]) == 2
    assert "There is no Ray cluster at RAY_ADDRESS=127.0.0.1:1" in capsys.readouterr().err


def test_the_missing_package_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*map(str, COMMAND), "--launcher", "ray", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == 'error: --launcher ray needs the package ray: pip install "torch-gnt[ray]"\n'
