"""Parity with recorded runs of the authors' implementation of HAT (joansj/hat), float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gnt
from gnt.protection._gate_function import gate_slope

FOLDER = Path(__file__).parents[1] / "golden" / "hat"


class Recording:
    """One recorded run."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz") as file:
            self._values = {key: torch.as_tensor(file[key]) for key in file.files}
        self.layers = [f"fc{n}" for n in (1, 2, 3) if f"init/fc{n}.weight" in self._values]
        self.tasks = len([key for key in self._values if key.startswith("end/")])
        self.steps = int(self["end", self.tasks - 1])

    def __getitem__(self, key: tuple[object, ...]) -> Tensor:
        return self._values["/".join(map(str, key))]

    def network(self) -> nn.Module:
        names = [*self.layers, *(f"last.{task}" for task in range(self.tasks))]
        net = Net([self[f"init/{name}.weight",].shape for name in names], len(self.layers)).double()
        net.load_state_dict({key: self["init", key] for key in net.state_dict()})
        return net


class Net(nn.Module):
    def __init__(self, shapes: list[tuple[int, int]], hidden: int) -> None:
        super().__init__()
        layers = [nn.Linear(shape[1], shape[0]) for shape in shapes]
        for number, layer in enumerate(layers[:hidden]):
            setattr(self, f"fc{number + 1}", layer)
        self.last = nn.ModuleList(layers[hidden:])
        self.hidden = hidden

    def forward(self, x: Tensor, task: int) -> Tensor:
        x = x.flatten(1)
        for number in range(self.hidden):
            x = torch.relu(getattr(self, f"fc{number + 1}")(x))
        return self.last[task](x)


class AtRecordedScale(gnt.HAT):
    """The scale of the gates is the recorded one."""

    recorded = 1.0
    scale = property(lambda self: self.recorded)


@pytest.mark.parametrize("name", ["hat01_mlp2_f64", "hat03_mlp3_smax50_f64"])
def test_recorded_steps_of_the_authors_are_reproduced(name):
    run = Recording(name)
    net, s_max = run.network(), float(run["smax",])
    x = run["step", 0, "x"]
    # the recorded gradient of e is autograd's times the published factor, and kept masks are not rounded
    hat = AtRecordedScale(
        net, gnt.trace(net, examples=[(x, task) for task in range(run.tasks)]),
        s_max=s_max, sparsity=float(run["lamb",]), compensation="none", apply="gradient",
    )  # fmt: skip
    optimizer, used = torch.optim.SGD(net.parameters(), lr=float(run["lr",])), 0
    for i in range(run.steps):
        task = int(run["step", i, "task"])
        if task != hat.task:
            if i:
                soft = torch.sigmoid(s_max * hat.embedding.detach())
                hat.end()
                used = torch.maximum(soft, torch.as_tensor(used))
                assert_close(used, torch.cat([run["mask_pre", task - 1, n][0] for n in range(len(run.layers))]))
                hat.cumulative = used
            hat.begin(task, optimizer, steps_per_epoch=3)
            with torch.no_grad():
                hat.embedding.copy_(torch.cat([run["init", f"e{layer}.weight"][task] for layer in run.layers]))
        for key, value in net.state_dict().items():
            assert_close(value, run["step", i, "p", key])
        assert_close(hat.embedding, torch.cat([run["step", i, "p", f"e{layer}.weight"][task] for layer in run.layers]))
        hat.recorded = float(run["step", i, "s"])
        hat._refresh_gates()
        optimizer.zero_grad()
        regularization = hat.penalty() / hat.settings.sparsity
        loss = F.cross_entropy(net(run["step", i, "x"], task), run["step", i, "y"]) + hat.penalty()
        assert_close(regularization, run["step", i, "reg"])
        assert_close(loss, run["step", i, "loss"])
        loss.backward()
        s, e = hat.recorded, hat.embedding.detach()
        published = s_max / s * (torch.cosh((s * e).clamp(-50, 50)) + 1) / (torch.cosh(e) + 1)
        live = (s * e).abs() < 8  # beyond, a (1 - a) loses digits
        closed, gates = gate_slope(e, s, s_max, 50.0), hat.gates.detach()
        assert_close((s * gates * (1 - gates) * published)[live], closed[live], 1e-11)
        hat.embedding.grad *= published
        optimizer.step()
    hat.end()
    for key, value in net.state_dict().items():
        assert_close(value, run["after", run.tasks - 1, key])


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual.detach(), expected, rtol=tolerance, atol=tolerance)
