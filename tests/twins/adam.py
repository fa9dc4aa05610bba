"""Literal twin of AdamGnT: one element at a time, in float64, each with its own step count.

Kingma & Ba 2015, Algorithm 1; `decoupled`: Loshchilov & Hutter 2019, Algorithm 2 (without a schedule);
`amsgrad`: Reddi, Kale & Kumar 2018, Algorithm 2, divided by 1 - beta2^t as torch does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

Index = tuple[int, ...]


@dataclass
class Element:
    theta: float
    m: float = 0.0
    v: float = 0.0
    v_max: float = 0.0
    t: int = 0


class AdamTwin:
    """One parameter, with its elements by index. ``groups``: the groups of the convolution whose weight it is."""

    def __init__(
        self,
        param: Tensor,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
        decoupled: bool = False,
        groups: int = 1,
    ) -> None:
        self.shape = tuple(param.shape)
        self.elements = {index: Element(float(param[index])) for index in product(*map(range, self.shape))}
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.amsgrad, self.maximize, self.decoupled, self.groups = amsgrad, maximize, decoupled, groups

    def step(self, gradient: Tensor) -> None:
        beta1, beta2 = self.betas
        for index, e in self.elements.items():
            g = float(gradient[index])
            if self.maximize:
                g = -g
            if self.decoupled:
                e.theta = e.theta - self.lr * self.weight_decay * e.theta
            else:
                g = g + self.weight_decay * e.theta
            e.t = e.t + 1
            e.m = beta1 * e.m + (1 - beta1) * g
            e.v = beta2 * e.v + (1 - beta2) * g**2
            e.v_max = max(e.v_max, e.v)
            m_hat = e.m / (1 - beta1**e.t)
            v_hat = (e.v_max if self.amsgrad else e.v) / (1 - beta2**e.t)
            e.theta = e.theta - self.lr * m_hat / (math.sqrt(v_hat) + self.eps)

    def reset(self, dim: int, units: list[int]) -> None:
        for index, e in self.elements.items():
            if self.unit_of(index, dim) in units:
                e.m = e.v = e.v_max = 0.0
                e.t = 0

    def unit_of(self, index: Index, dim: int) -> int:
        """The row of an element (dim 0), or the input channel that it reads (dim 1)."""
        if dim == 0:
            return index[0]
        outputs_per_group = self.shape[0] // self.groups
        return index[0] // outputs_per_group * self.shape[1] + index[1]

    def read(self, name: str) -> Tensor:
        """One quantity (theta, m, v, v_max or t) of all elements, in float64."""
        flat = [float(getattr(e, name)) for e in self.elements.values()]
        return torch.tensor(flat, dtype=torch.float64).reshape(self.shape)

    def correction(self, which: int, power: float = 1.0) -> Tensor:
        """(1 - beta^t)^power of all elements, each with its own t, for beta1 (0) or beta2 (1)."""
        flat = [(1 - self.betas[which] ** e.t) ** power for e in self.elements.values()]
        return torch.tensor(flat, dtype=torch.float64).reshape(self.shape)
