"""Networks whose units have several producers, consumers or taps, with their unit groups written by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnt.units import Slot, UnitGroup

RELU = ("relu", None)


class ActorCritic(nn.Module):
    """A trunk read by two heads directly, and by a third head together with its square."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.actor, self.critic, self.twice = (
            nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 1, bias=False), nn.Linear(12, 2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.trunk(x))
        return torch.cat([self.actor(h), self.critic(h), self.twice(torch.cat([h, h * h], -1))], -1)

    def group(self) -> UnitGroup:
        consumers = (
            Slot("actor", self.actor, 6, dim=1),
            Slot("critic", self.critic, 6, dim=1),
            Slot("twice", self.twice, 6, dim=1, tap=1),
            Slot("twice", self.twice, 6, dim=1, tap=2, offset=6),
        )
        return UnitGroup("trunk", 6, (Slot("trunk", self.trunk, 6),), consumers, activation=RELU)


class Gated(nn.Module):
    """SwiGLU from one fused layer: rows 0-5 are the gates, rows 6-11 the gated values."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 12), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)

    def group(self) -> UnitGroup:
        gates = Slot("up", self.up, 6)
        values = Slot("up", self.up, 6, offset=6, activation=("identity", None))
        return UnitGroup("up", 6, (gates, values), (Slot("down", self.down, 6, dim=1),), activation=("silu", None))


class SkipConnections(nn.Module):
    """Skip connections as in U-Net: channels read directly by one convolution, pooled by another, and flattened by a
    linear layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.deep = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)
        self.skip, self.head = nn.Conv2d(3 + 4, 2, 3), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.first(x)))
        pooled = F.max_pool2d(h, 2)
        deep = F.interpolate(torch.relu(self.deep(pooled)), scale_factor=2.0)
        return torch.cat([self.skip(torch.cat([deep, h], 1)).flatten(1), self.head(pooled.flatten(1))], 1)

    def group(self) -> UnitGroup:
        consumers = (
            Slot("deep", self.deep, 4, dim=1),
            Slot("skip", self.skip, 4, dim=1, offset=3, tap=1),
            Slot("head", self.head, 4, dim=1, block=4, tap=2),
        )
        scales = (Slot("norm", self.norm, 4),)
        return UnitGroup("first", 4, (Slot("first", self.first, 4),), consumers, scales, activation=RELU)


class Depthwise(nn.Module):
    """A depthwise convolution with two channels for each unit between producer and grouped consumer."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depth = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 8, 3, groups=4, padding=1)
        self.project = nn.Conv2d(8, 4, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.relu6(self.depth(F.relu6(self.expand(x)))))

    def group(self) -> UnitGroup:
        positions = torch.arange(8).view(4, 2).split(1, 1)
        consumers = [
            Slot("project", self.project, 4, dim=1, groups=2, positions=p, tap=i) for i, p in enumerate(positions)
        ]
        scales = (Slot("depth", self.depth, 4, block=2),)
        return UnitGroup(
            "expand", 4, (Slot("expand", self.expand, 4),), tuple(consumers), scales, activation=("relu6", None)
        )


class Transposed(nn.Module):
    """Layers whose weights have the shape (in, out), as in GPT-2."""

    class Conv1D(nn.Module):
        """y = x W + b with W of shape (in, out)."""

        def __init__(self, outputs: int, inputs: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(inputs, outputs) * 0.2)
            self.bias = nn.Parameter(torch.zeros(outputs))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight + self.bias

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = self.Conv1D(7, 5), self.Conv1D(4, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))

    def group(self) -> UnitGroup:
        slots = Slot("up", self.up, 7, dim=1), Slot("down", self.down, 7, dim=0)
        return UnitGroup("up", 7, slots[:1], slots[1:], activation=("gelu", None))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "actor_critic": (ActorCritic, (5,)),
    "gated": (Gated, (5,)),
    "skip_connections": (SkipConnections, (2, 4, 4)),
    "depthwise": (Depthwise, (2, 5, 5)),
    "transposed": (Transposed, (3, 5)),
}
