"""TensorBoard: the values of a probe are written to an event file and read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# runs in a separate process, because tensorboard's imports raise deprecation warnings
PROGRAM = """
import json, sys
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter
import gnt

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
engine = gnt.GnT(net, optimizer, replacement_rate=0.1, maturity_threshold=2).attach()
x, y = torch.randn(32, 4), torch.randint(2, (32,))
probe = gnt.metrics.Probe(net, engine, x, y=y, every=2, gradient=True, update=True, prefix="probe/")
written = {}
with SummaryWriter(sys.argv[1]) as writer:
    for step in range(1, 7):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        for name, value in probe.step().items():
            writer.add_scalar(name, value, step)
            written.setdefault(name, []).append([step, value])
events = EventAccumulator(sys.argv[1])
events.Reload()
read = {name: [[e.step, e.value] for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
print(json.dumps([written, read]))
"""


def test_an_event_file_holds_the_measured_values(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    path = {"PYTHONPATH": str(root)} if (root / "gnt").is_dir() else {}  # empty if gnt is an installed wheel
    env = {**os.environ, "OMP_NUM_THREADS": "1", **path}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written, read = json.loads(done.stdout.splitlines()[-1])
    assert set(read) == set(written)
    assert {"probe/dead_units/0", "probe/nature_rank/0", "probe/weight_magnitude", "probe/update_size"} <= set(read)
    for name, series in written.items():
        assert [step for step, _ in read[name]] == [step for step, _ in series] == [2, 4, 6]
        for (_, actual), (_, expected) in zip(read[name], series, strict=True):
            assert abs(actual - expected) <= 1e-6 * max(1, abs(expected))  # event files store float32
