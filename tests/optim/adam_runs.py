"""Small runs of AdamGnT, shared by its unit tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gnt.optim import AdamGnT

HALF = [torch.bfloat16, torch.float16]
FULL = [torch.float32, torch.float64]


def stepped(*shapes: tuple[int, ...], steps: int = 3, dtype: torch.dtype = torch.float32, **options):
    """Random parameters and an AdamGnT that has stepped them."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]
    optimizer = AdamGnT(params, **options)
    for _ in range(steps):
        step(optimizer, generator)
    return params, optimizer


def step(optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
    """One step on random gradients."""
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.randn(param.shape, generator=generator).to(param)
    optimizer.step()


def assert_same(a: object, b: object) -> None:
    """Equal to the last bit and in dtype, through dicts and lists."""
    if isinstance(a, dict):
        assert isinstance(b, dict)
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert isinstance(b, list)
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    else:
        assert a == b
