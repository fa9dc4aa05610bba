"""Small training runs of AdamGnT, shared by its tests."""

from __future__ import annotations

import torch
from torch import nn

from gnt.optim import AdamGnT

HALF = [torch.bfloat16, torch.float16]
FULL = [torch.float32, torch.float64]


def stepped(*shapes: tuple[int, ...], steps: int = 3, dtype: torch.dtype = torch.float32, kernels=False, **options):
    """Random parameters of these shapes, and an AdamGnT that took some steps on them, by default without kernels."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]
    optimizer = AdamGnT(params, kernels=kernels, **options)
    for _ in range(steps):
        step(optimizer, generator)
    return params, optimizer


def step(optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
    """Take one step with random gradients."""
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.randn(param.shape, generator=generator).to(param)
    optimizer.step()
