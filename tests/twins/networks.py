"""Networks of several kinds in two copies, one for the engine and one for its twin, with the same data and draws."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from tests.twins.engine import Array, HiddenLayer

WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)

Builder = Callable[[], list[nn.Module]]


def mlp1() -> list[nn.Module]:
    return [nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 3)]


def mlp2() -> list[nn.Module]:
    return [nn.Linear(5, 9), nn.Sigmoid(), nn.Linear(9, 7, bias=False), nn.LeakyReLU(0.2), nn.Linear(7, 3)]


def mlp3() -> list[nn.Module]:
    hidden = [m for a, b in pairwise((5, 8, 11, 6)) for m in (nn.Linear(a, b), nn.Tanh())]
    return [*hidden, nn.Linear(6, 3)]


def mlp_norms() -> list[nn.Module]:
    first = [nn.Linear(5, 9), nn.BatchNorm1d(9), nn.LeakyReLU()]
    second = [nn.Linear(9, 8), nn.BatchNorm1d(8, affine=False), nn.Tanh()]
    third = [nn.Linear(8, 7), nn.SiLU(), nn.LayerNorm(7)]
    return [*first, *second, *third, nn.Linear(7, 3)]


def conv() -> list[nn.Module]:
    first = [nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(6, 5, 2, stride=2), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return [*first, *second, nn.Linear(5, 3)]


def conv_flatten() -> list[nn.Module]:
    first = [nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten()]
    return [*first, nn.Linear(20, 7), nn.SiLU(), nn.Linear(7, 3)]


def grouped() -> list[nn.Module]:
    first = [nn.Conv2d(2, 6, 3), nn.SiLU()]
    second = [nn.Conv2d(6, 9, 2, groups=3), nn.BatchNorm2d(9), nn.Tanh()]
    third = [nn.Conv2d(9, 4, 2, bias=False), nn.Sigmoid(), nn.Flatten()]
    return [*first, *second, *third, nn.Linear(16, 3)]


def conv1d() -> list[nn.Module]:
    first = [nn.Conv1d(4, 6, 3, dilation=2), nn.Tanh()]
    second = [nn.Conv1d(6, 8, 3, stride=2, groups=2), nn.LeakyReLU(0.1), nn.Flatten()]
    return [*first, *second, nn.Linear(40, 3)]


# the input shape of each network
NETWORKS: dict[Builder, tuple[int, ...]] = {
    mlp1: (5,),
    mlp2: (5,),
    mlp3: (5,),
    mlp_norms: (5,),
    conv: (2, 6, 6),
    conv_flatten: (2, 6, 6),
    grouped: (2, 6, 6),
    conv1d: (4, 16),
}


class TwinNetworks:
    """Two copies of a network in float64, each trained by its own SGD."""

    def __init__(self, build: Builder) -> None:
        torch.manual_seed(3)
        self.net = nn.Sequential(*build()).double()
        self.twin_net = copy.deepcopy(self.net)
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.05)
        self.twin_opt = torch.optim.SGD(self.twin_net.parameters(), lr=0.05)
        self.shape = NETWORKS[build]
        self._data = torch.Generator().manual_seed(4)
        self._draws = np.random.default_rng(5)
        at = [i for i, module in enumerate(self.twin_net) if isinstance(module, WEIGHT_LAYERS)]
        self.layers = [self._hidden_layer(a, b) for a, b in pairwise(at)]

    def _hidden_layer(self, a: int, b: int) -> HiddenLayer:
        norms = [module for module in self.twin_net[a:b] if isinstance(module, NORMS)]
        return HiddenLayer(self.twin_net[a], self.twin_net[b], norms)

    def learn(self) -> list[Tensor]:
        """Train both networks on one batch. Returns the inputs of the consumers in the twin's network."""
        x = torch.randn(4, *self.shape, dtype=torch.float64, generator=self._data)
        y = torch.randn(4, 3, dtype=torch.float64, generator=self._data)
        _sgd_step(self.opt, self.net(x), y)
        read, h = [], x
        for module in self.twin_net:
            if isinstance(module, WEIGHT_LAYERS):
                read.append(h)
            h = module(h)
        _sgd_step(self.twin_opt, h, y)
        return read[1:]

    def draw_incoming(self, layer: int) -> Array:
        """Random incoming weights for one unit of a layer."""
        return self._draws.uniform(-0.5, 0.5, self.layers[layer].incoming.shape[1:])

    def stack(self, replaced: Sequence[dict[int, Array]]) -> tuple[list[Tensor], list[Tensor]]:
        """Units and their incoming weights as arguments of gnt: (k,) and (k, ...) for each layer."""
        units = [torch.tensor([*some], dtype=torch.int64) for some in replaced]
        shapes = [(len(some), *layer.incoming.shape[1:]) for some, layer in zip(replaced, self.layers, strict=True)]
        rows = [np.array([*some.values()]).reshape(shape) for some, shape in zip(replaced, shapes, strict=True)]
        return units, [torch.from_numpy(row) for row in rows]


def _sgd_step(opt: torch.optim.Optimizer, output: Tensor, y: Tensor) -> None:
    opt.zero_grad()
    nn.functional.mse_loss(output, y).backward()
    opt.step()
