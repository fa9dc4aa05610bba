"""Methods against forgetting reproduce recorded runs of nngeometry and Avalanche (scripts/parity/record.py)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt


class Record:
    """The arrays of one file as tensors, by name, and its settings."""

    def __init__(self, name: str) -> None:
        with np.load(Path(__file__).with_name("memory") / f"{name}.npz") as file:
            self.meta = json.loads(str(file["meta"]))
            self.values = {key: torch.from_numpy(file[key]) for key in file.files if key != "meta"}

    def __getitem__(self, key: str) -> Tensor:
        return self.values[key]

    def net(self, prefix: str) -> nn.Sequential:
        """The network with the recorded weights of that prefix."""
        start = f"{prefix}/"
        weights = {key.removeprefix(start): value for key, value in self.values.items() if key.startswith(start)}
        if weights["0.weight"].ndim == 2:
            layers = [nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)]
        else:
            layers = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)]
        net = nn.Sequential(*layers).double()
        net.load_state_dict(weights)
        return net

    def batches(self, size: int) -> Iterator[tuple[int, bool, Tensor, Tensor]]:
        """(task, whether it is the task's last batch, x, y) of each step."""
        for task, (x, y) in enumerate(zip(self["x"], self["y"], strict=True)):
            parts = list(zip(x.split(size), y.split(size), strict=True))
            for number, part in enumerate(parts, 1):
                yield task, number == len(parts), *part


def flat(tensors: Any) -> Tensor:
    return torch.cat([each.detach().flatten() for each in tensors])


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def run(
    record: Record,
    prefix: str,
    size: int,
    lr: float,
    change_gradients: Callable[[nn.Module, int, int, Tensor, Tensor], None],
    after_step: Callable[[nn.Module, int, bool], None],
    *,
    factor: float = 1.0,
    tolerance: float = 1e-10,
) -> None:
    """Train as in a record, and compare all weights after each step."""
    net = record.net(f"{prefix}init")
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for step, (task, last, x, y) in enumerate(record.batches(size)):
        optimizer.zero_grad()
        (factor * F.cross_entropy(net(x), y)).backward()
        change_gradients(net, step, task, x, y)
        optimizer.step()
        after_step(net, task, last)
        assert_close(flat(net.parameters()), record[f"{prefix}weights"][step], tolerance)


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_exact_fisher_information_is_that_of_nngeometry(name: str) -> None:
    record = Record("fisher")
    net = record.net(f"{name}/net")
    ewc = gnt.EWC(net, 1.0)
    ewc.consolidate(net, record[f"{name}/x"])
    assert_close(flat(ewc.importance(p) for p in net.parameters()), record[f"{name}/fisher"])


@pytest.mark.parametrize("mode", ["separate", "online"])
def test_ewc_trains_as_that_of_avalanche_in_batches_of_one_sample(mode: Any) -> None:
    """Avalanche keeps one importance and one anchor of each task; its penalty has no factor 1/2."""
    record, held = Record("ewc"), []
    decay = record.meta["decay"] if mode == "online" else 1.0

    def penalize(net: nn.Module, *_: Any) -> None:
        if not held:  # with the network's weights before the first step
            held.append(gnt.EWC(net, 2 * record.meta["ewc_lambda"], mode=mode, decay=decay, fisher="empirical"))
        held[0].backward()

    def consolidate(net: nn.Module, task: int, last: bool) -> None:
        if last:
            held[0].consolidate(net, (record["x"][task], record["y"][task]))
            total = record[f"{mode}/importance"][: task + 1]
            total = total[-1] if mode == "online" else total.sum(0)
            assert_close(flat(held[0].importance(p) for p in net.parameters()), total)

    run(record, f"{mode}/", 1, 0.05, penalize, consolidate)


def test_si_trains_as_that_of_avalanche_without_its_bound_on_importance() -> None:
    """Its penalty has a factor 1/2. As published it measures no importance at all on the CPU."""
    record, held = Record("si"), []
    assert record.meta["published"] == 0.0

    def penalize(net: nn.Module, *_: Any) -> None:
        if not held:
            held.append(gnt.SI(net, record.meta["si_lambda"] / 2, damping=record.meta["eps"]))
        held[0].backward()

    def step(net: nn.Module, task: int, last: bool) -> None:
        held[0].step()
        if last:
            held[0].consolidate()
            assert_close(flat(held[0].importance(p) for p in net.parameters()), record["importance"][task])

    run(record, "", record.meta["batch_size"], 0.05, penalize, step)


def test_agem_trains_as_that_of_avalanche_on_the_same_drawn_items() -> None:
    record, projected, first = Record("agem"), [], len(Record("agem")["weights"]) - len(Record("agem")["drawn_x"])

    def project(net: nn.Module, step: int, task: int, x: Tensor, y: Tensor) -> None:
        buffer = gnt.ReplayBuffer(8)
        if step >= first:
            buffer.add(record["drawn_x"][step - first], record["drawn_y"][step - first])
        before = flat(p.grad for p in net.parameters())
        gnt.AGEM(net, buffer, F.cross_entropy, batch_size=8).project()
        projected.append(not flat(p.grad for p in net.parameters()).equal(before))

    run(record, "", record.meta["batch_size"], 0.05, project, lambda *_: None)
    assert projected == record["projected"].tolist()
    assert any(projected[first:])
    assert not all(projected[first:])


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_gem_trains_as_that_of_avalanche_on_the_same_stored_items(margin: float) -> None:
    """With a loss of factor 10^4, beside which the 0.001 on the diagonal of its Gram matrix is below rounding."""
    record, projected, held = Record("gem"), [], []

    def loss(output: Tensor, y: Tensor) -> Tensor:
        return record.meta["factor"] * F.cross_entropy(output, y)

    def project(net: nn.Module, step: int, task: int, x: Tensor, y: Tensor) -> None:
        if not held:
            held.append(gnt.GEM(net, loss, per_task=10, margin=margin))
        if len(held[0].memories) == task:
            held[0].begin_task(task)
            held[0].add(record[f"{margin}/stored_x"][task], record[f"{margin}/stored_y"][task])
        before = flat(p.grad for p in net.parameters())
        held[0].project()
        projected.append(not flat(p.grad for p in net.parameters()).equal(before))

    size, factor = record.meta["batch_size"], record.meta["factor"]
    # its projected gradients are float32
    run(record, f"{margin}/", size, record.meta["lr"], project, lambda *_: None, factor=factor, tolerance=1e-6)
    assert projected == record[f"{margin}/projected"].tolist()
    assert any(projected)
