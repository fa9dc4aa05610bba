"""``--launcher ray`` on a cluster of two nodes: the same records as on this machine, also when stopped and resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT, TIMEOUT, finish, records, run, start, until

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
COMMAND = ["slowly_changing_regression", "--methods", "l2", "--steps", 2500, "--bin", 250, "--grid", "lr=.01,.003"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment variables with which a command finds the cluster."""
    folder = tempfile.mkdtemp(prefix="ray-")  # the names of pytest's folders are too long for Ray's sockets
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.ray_cluster"],
        cwd=ROOT,
        env={**os.environ, **QUIET, "RAY_TMPDIR": folder, "RAY_raylet_start_wait_time_s": str(TIMEOUT)},
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
    run(*COMMAND, "--out", tmp_path / "local")
    assert records(out) == records(tmp_path / "local")
    assert not list(out.glob(".*"))
    nodes = [json.loads(file.read_text())["hardware"]["node"] for file in out.rglob("about.json")]
    assert len(nodes) == len(set(nodes)) == 2


ELSEWHERE = """
import sys
from pathlib import Path
import ray
from benchmarks.errors import CannotRun
from benchmarks.launching.ray_nodes import check_nodes

class LocalDisk(type(Path())):
    def write_text(self, text):
        return len(text)  # not visible to other nodes

ray.init(address="auto", log_to_driver=False, logging_level="error")
check_nodes(ray, Path(sys.argv[1]))
try:
    check_nodes(ray, LocalDisk(sys.argv[1]))
except CannotRun as error:
    print(error)
"""


def test_a_folder_that_nodes_do_not_see_is_refused(cluster: dict[str, str], tmp_path: Path) -> None:
    script = [sys.executable, "-c", ELSEWHERE, str(tmp_path)]
    done = subprocess.run(
        script, cwd=ROOT, env={**os.environ, **cluster}, capture_output=True, text=True, timeout=TIMEOUT, check=True
    )
    assert done.stdout.startswith("The Ray node ")
    assert f"does not see {tmp_path}: give --out a folder on a file system that all nodes share" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_missing_cluster_is_reported(tmp_path: Path) -> None:
    nowhere = {"RAY_ADDRESS": "127.0.0.1:1", **QUIET}
    _, errors = run(*COMMAND, "--launcher", "ray", "--out", tmp_path, status=2, environment=nowhere)
    assert "There is no Ray cluster at RAY_ADDRESS=127.0.0.1:1" in errors


def test_the_missing_package_is_reported(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError('not here', name='ray')\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    _, errors = run(*COMMAND, "--launcher", "ray", "--out", tmp_path, status=2, environment={"PYTHONPATH": path})
    assert errors == 'error: --launcher ray needs the package ray: pip install "torch-gnt[ray]"\n'
