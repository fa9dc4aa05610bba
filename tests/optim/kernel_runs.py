"""AdamGnT with and without the C kernel on the same parameters, for the tests of ``kernels=True``."""

from __future__ import annotations

import copy

import torch
from torch import nn

from gnt.optim import AdamGnT
from gnt.optim._adam.kernel import KernelStep

TOLERANCE = {torch.float32: {"rtol": 2e-6, "atol": 1e-7}, torch.float64: {"rtol": 1e-14, "atol": 1e-16}}


def pair(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32, **options):
    """Two copies of random parameters, each with its optimizer: the first with the kernel, the second without."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in shapes]
    others = copy.deepcopy(params)
    return (params, AdamGnT(params, **options, kernels=True)), (others, AdamGnT(others, **options, foreach=False))


def num_kernel_steps(optimizer: AdamGnT) -> list[int]:
    """The number of parameters of each group that the kernel stepped last."""
    return [
        sum(len(stepper._params) for stepper, _ in plan._steppers if isinstance(stepper, KernelStep))
        for plan in optimizer._plans.values()
    ]


def assert_close(ours, plain, dtype=torch.float32):
    """Assert that parameters and optimizer states agree up to rounding."""
    for param, other in zip(ours[0], plain[0], strict=True):
        torch.testing.assert_close(param, other, **TOLERANCE[dtype])
        state, expected = ours[1].state[param], plain[1].state[other]
        assert set(state) == set(expected)
        for key, value in state.items():
            torch.testing.assert_close(value, expected[key], **TOLERANCE[dtype])
