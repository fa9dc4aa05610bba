"""The step of `gnt.optim.UPGD` by C kernels: its noise, and agreement with the literal twin and torch operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gnt.optim import UPGD
from tests.twins.upgd import TwinUPGD, philox_normal

OPTIONS: dict[str, Any] = {
    "lr": 0.1, "decay_rate": 0.9, "sigma": 0.1, "weight_decay": 0.01, "factor": 2.0, "protecting": True,
    "scaling": "global", "betas": None, "eps": 1e-8,
}  # fmt: skip


def parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(n, generator=generator, dtype=dtype)) for n in ((40, 31), (7,), (0, 2), (3, 5, 2))]


def set_gradients(params: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator, dtype=param.dtype)


def noise_alone(size: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What a step writes into weights without gradient and utility: standard normal numbers."""
    weight = nn.Parameter(torch.zeros(size, dtype=dtype))
    weight.grad = torch.zeros_like(weight)
    UPGD([weight], lr=1.0, sigma=1.0, kernels=True, generator=torch.Generator().manual_seed(seed)).step()
    return -weight.detach()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("changed", [{}, {"protecting": False}, {"betas": (0.9, 0.99)}, {"sigma": 0.0}], ids=str)
def test_steps_agree_with_the_twin(changed: dict[str, Any], dtype: torch.dtype, tolerance: float) -> None:
    options, params = {**OPTIONS, **changed}, parameters(dtype)
    optimizer = UPGD(params, **options, kernels=True, generator=torch.Generator().manual_seed(1))
    own = [p for p in params if p.numel()]
    twin, generator = TwinUPGD([p.detach().double().numpy() for p in own], **options), torch.Generator().manual_seed(1)
    for step in range(3):
        set_gradients(params, 10 + step)
        key = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
        noise = [philox_normal(p.numel(), key, n, dtype).reshape(p.shape) for n, p in enumerate(own)]
        version = params[0]._version
        optimizer.step()
        assert params[0]._version > version
        twin.step([p.grad.double().numpy() for p in own if p.grad is not None], noise)
        for param, expected in zip(own, twin.weights, strict=True):
            np.testing.assert_allclose(param.detach().numpy(), expected, rtol=tolerance, atol=tolerance)


def test_the_noise_is_standard_normal_and_independent() -> None:
    size = 200_000
    noise = noise_alone(size, 3).double()
    ordered = noise.sort().values
    expected = 0.5 * torch.erfc(-ordered / 2**0.5)
    distance = (expected - (torch.arange(size) + 0.5) / size).abs().max()
    assert distance < 1.63 / size**0.5  # Kolmogorov and Smirnov, 1%
    assert abs(float(noise.pow(4).mean()) - 3) < 0.07
    for shift in (1, 256, 512, 768, 1024):  # positions of one counter, neighbours, and tiles
        for power in (1, 2):
            a, b = noise[shift:].pow(power), noise[:-shift].pow(power)
            assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 4 / size**0.5
    other = noise_alone(size, 4).double()
    assert abs(float(torch.corrcoef(torch.stack([noise, other]))[0, 1])) < 4 / size**0.5


def test_steps_do_not_depend_on_the_number_of_threads() -> None:
    results, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(noise_alone(70_001, 3))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_without_noise_kernels_agree_with_torch_operations_and_a_gradient_of_nan_spreads() -> None:
    results = []
    for kernels in (True, False):
        params = parameters(torch.float32)
        optimizer = UPGD(params, sigma=0.0, weight_decay=0.1, kernels=kernels)
        for step in range(3):
            set_gradients(params, 10 + step)
            optimizer.step()
        results.append([p.detach().clone() for p in params])
        assert params[1].grad is not None
        params[1].grad[2] = float("nan")
        optimizer.step()
        assert all(bool(p.isnan().all()) for p in params)
    torch.testing.assert_close(*results)
