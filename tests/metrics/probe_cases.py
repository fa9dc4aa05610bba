"""Networks, batches and expected values for the tests of `gnt.metrics.Probe`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnt import metrics
from tests.helpers.small_runs import batch

GROUP_METRICS = ("dead_units", "dormant_units", "effective_rank", "approximate_rank", "nature_rank", "weight_magnitude")


def group_values(
    name: str, read: Tensor, weight: Tensor, units: Tensor | None = None, tau: float = 0.1
) -> dict[str, float]:
    """Expected values of a group.

    ``units`` is what was read as (samples, units, positions), if ``read`` has another shape.
    """
    units = read if units is None else units
    return {
        f"dead_units/{name}": metrics.dead_units(units),
        f"dormant_units/{name}": metrics.dormant_units(units, tau),
        f"effective_rank/{name}": metrics.effective_rank(read),
        f"approximate_rank/{name}": metrics.approximate_rank(read),
        f"nature_rank/{name}": metrics.nature_rank(read),
        f"weight_magnitude/{name}": metrics.weight_magnitude(weight),
    }


def inputs(n: int = 32, *shape: int) -> Tensor:
    """Random inputs (n, *shape); the shape is (4,) by default."""
    return batch(0, *(shape or (4,)), n=n)[0]


class Gated(nn.Module):
    """Units with two producers, ``gate`` and ``up``, and two consumers."""

    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)
        self.actor = nn.Linear(6, 2)

    def forward(self, x):
        h = F.silu(self.gate(x)) * self.up(x)
        return self.actor(h) + self.down(h).sum(1, keepdim=True)


class Pooled(nn.Module):
    """Units that one consumer reads before pooling and another after it."""

    def __init__(self):
        super().__init__()
        self.conv, self.wide, self.fc = nn.Conv2d(1, 5, 3), nn.Conv2d(5, 3, 3), nn.Linear(5 * 9, 2)

    def forward(self, x):
        h = F.relu(self.conv(x))
        return self.fc(F.max_pool2d(h, 2).flatten(1)) + self.wide(h).mean((1, 2, 3)).unsqueeze(1)


class TwoInputs(nn.Module):
    """A network of two inputs and a keyword argument, whose consumer is called twice, once, or not at all."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        self.twice, self.skip = True, False

    def forward(self, left, right=None, *, scale=1.0):
        if self.skip and not self.training:
            return left
        out = self.b(F.relu(self.a(left)))
        return out + self.b(F.relu(self.a(right)) * scale) if self.twice else out


def noisy_net() -> nn.Sequential:
    """A network whose forward changes running statistics, generators, attributes and a buffer."""

    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.seen = []

        def forward(self, x):
            self.calls += 1
            self.last = x
            self.seen.append(len(x))
            return x + 0 * torch.rand(())

    torch.manual_seed(0)
    return nn.Sequential(
        *(Stateful(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Linear(8, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2)),
    )
