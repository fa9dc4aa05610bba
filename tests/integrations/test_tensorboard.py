"""TensorBoard: the values of a probe are written to an event file and read back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import gnt


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised when tensorboard is imported
def test_an_event_file_holds_the_measured_values(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    engine = gnt.GnT(net, optimizer, replacement_rate=0.1, maturity_threshold=2).attach()
    x, y = torch.randn(32, 4), torch.randint(2, (32,))
    probe = gnt.metrics.Probe(net, engine, x, y=y, every=2, gradient=True, update=True, prefix="probe/")
    written: dict[str, list[tuple[int, float]]] = {}
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(1, 7):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
            for name, value in probe.step().items():
                writer.add_scalar(name, value, step)
                written.setdefault(name, []).append((step, value))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(written)
    assert {"probe/dead_units/0", "probe/nature_rank/0", "probe/weight_magnitude", "probe/update_size"} <= set(written)
    for name, series in written.items():
        read = events.Scalars(name)
        assert [each.step for each in read] == [step for step, _ in series] == [2, 4, 6]
        for each, (_, expected) in zip(read, series, strict=True):
            assert abs(each.value - expected) <= 1e-6 * max(1, abs(expected))  # event files store float32
