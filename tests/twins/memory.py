"""Literal twins of the penalties against forgetting: one sample, one label, one task and one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Output = Callable[[Tensor], Tensor]


def fisher(net: nn.Module, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
    """Mean over x of sum_c p(c|x) (d log p(c|x) / d theta)^2; with labels y, of (d log p(y|x) / d theta)^2."""
    parameters = list(net.parameters())
    total = [torch.zeros_like(each) for each in parameters]
    for i in range(len(x)):
        log_p = net(x[i : i + 1]).log_softmax(1)[0]
        for c in range(len(log_p)) if y is None else [int(y[i])]:
            weight = log_p[c].exp().item() if y is None else 1.0
            for own, gradient in zip(total, torch.autograd.grad(log_p[c], parameters, retain_graph=True), strict=True):
                own += weight * gradient**2
    return [each / len(x) for each in total]


def sensitivity(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Mean over x of |d ||f(x)||^2 / d theta| (arXiv 1711.09601, Eq. 2)."""
    parameters = list(net.parameters())
    total = [torch.zeros_like(each) for each in parameters]
    for i in range(len(x)):
        gradients = torch.autograd.grad(net(x[i : i + 1]).square().sum(), parameters)
        for own, gradient in zip(total, gradients, strict=True):
            own += gradient.abs()
    return [each / len(x) for each in total]


def separate_penalties(
    parameters: Sequence[Tensor], tasks: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]], strength: float
) -> Tensor:
    """Sum over tasks of strength/2 * sum F_t (theta - theta_t)^2 (arXiv 1612.00796, Eq. 3)."""
    total = torch.zeros((), dtype=parameters[0].dtype)
    for fishers, anchors in tasks:
        for theta, f, anchor in zip(parameters, fishers, anchors, strict=True):
            total = total + strength / 2 * (f * (theta - anchor) ** 2).sum()
    return total
