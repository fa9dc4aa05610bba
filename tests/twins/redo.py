"""Literal twin of ReDo (arXiv 2302.12902): one unit at a time, in float64, with the moments of its Adam."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from tests.twins.engine import Array, HiddenLayer


class ReDo:
    """ReDo on ``modules[l]``: producer, consumer and norms of hidden layer l, whose weights it changes in place."""

    def __init__(
        self,
        modules: Sequence[tuple[nn.Module, nn.Module, Sequence[nn.Module]]],
        optimizer: torch.optim.Optimizer,
        tau: float,
        period: int,
        generator: torch.Generator,
    ) -> None:
        self.modules, self.optimizer, self.tau, self.period = modules, optimizer, tau, period
        self.layers = [HiddenLayer(*each) for each in modules]
        self.generator = generator
        self.steps = 0

    def score(self, layer: HiddenLayer, h: Array) -> list[float]:
        """s_i = E|h_i| / (1/H sum_k E|h_k|)"""
        magnitude = [
            np.mean([np.abs(values).mean() for values in layer.features(h, i)]) for i in range(layer.num_units)
        ]
        return [each / (sum(magnitude) / layer.num_units) for each in magnitude]

    def step(self, features: Sequence[Tensor]) -> list[list[int]]:
        """Run what follows the optimizer's step. Returns the replaced units of each layer."""
        self.steps += 1
        if self.steps % self.period != 0:
            return [[] for _ in self.layers]
        dormant = []
        for layer, given in zip(self.layers, features, strict=True):
            scores = self.score(layer, given.detach().numpy())
            dormant.append([i for i in range(layer.num_units) if scores[i] <= self.tau])
        for number, units in enumerate(dormant):
            self.recycle(number, units)
        for number, units in enumerate(dormant):
            for i in units:
                self.reset_moments(number, i)
        return dormant

    def recycle(self, number: int, units: Sequence[int]) -> None:
        """Set outgoing weights to 0 and draw incoming weights from the initial distribution."""
        layer = self.layers[number]
        bound = 1 / math.sqrt(layer.incoming[0].size)
        weights = torch.empty(len(units), *layer.incoming.shape[1:], dtype=torch.float64)
        if len(units):
            weights.uniform_(-bound, bound, generator=self.generator)
        for i in units:
            layer.zero_outgoing(i)
        for i, incoming in zip(units, weights.numpy(), strict=True):
            layer.reinitialize(i, incoming)

    def reset_moments(self, number: int, i: int) -> None:
        """Set both of Adam's moments of the unit's weights to 0; other optimizer state stays."""
        for moment in ("exp_avg", "exp_avg_sq"):
            producer, consumer, norms = self.modules[number]
            moments = HiddenLayer(self.moments_of(producer, moment), self.moments_of(consumer, moment))
            moments.zero_outgoing(i)
            moments.incoming[i] = 0
            if moments.bias is not None:
                moments.bias[i] = 0
            for norm in norms:
                for name in ("weight", "bias"):
                    if getattr(norm, name, None) is not None:
                        self.optimizer.state[getattr(norm, name)][moment][i] = 0

    def moments_of(self, module: nn.Module, moment: str) -> SimpleNamespace:
        """An object with the attributes of a layer whose weight and bias are the layer's moments."""
        values = {
            name: None if parameter is None else self.optimizer.state[parameter][moment]
            for name, parameter in (("weight", module.weight), ("bias", module.bias))
        }
        groups = {"groups": module.groups} if hasattr(module, "groups") else {}
        return SimpleNamespace(**values, **groups)
