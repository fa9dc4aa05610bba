"""Shares of an optimizer's step by the C kernel, against torch operations."""

from __future__ import annotations

import pytest
import torch

import gnt
from gnt.protection import _slowed_step
from tests.helpers.small_runs import assert_same, batch, conv_net

SHAPES = [  # of a parameter and its measure
    ((5, 7), (5, 7)), ((5, 7), (5, 1)), ((5, 7), (1, 7)), ((5, 7), (1, 1)), ((9,), (9,)), ((9,), (1,)),
    ((0, 3), (0, 3)), ((4, 3, 2, 5), (4, 3, 1, 1)), ((4, 3, 2, 5), (4, 1, 1, 1)), ((4, 3, 2), (1, 3, 1)),
    ((300, 130), (300, 130)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parameters_move_by_the_rates_share_of_the_step(dtype):
    generator = torch.Generator().manual_seed(0)

    def drawn(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    factors = torch.tensor([0.3, 7.0, 2e4], dtype=dtype)
    parts = [(drawn(a), drawn(a), drawn(b).relu(), n % 3) for n, (a, b) in enumerate(SHAPES)]
    odd = [
        (drawn((4, 3)).t(), drawn((3, 4)), drawn((3, 4)).relu(), 0),
        (drawn((4, 3)), drawn((4, 3)), drawn((4, 3)).relu(), torch.zeros(4, 3, dtype=torch.int64)),
        (drawn((4, 3, 2)), drawn((4, 3, 2)), drawn((4, 3, 2)).relu(), 0),
        (drawn((4, 3)).half(), drawn((4, 3)).half(), drawn((4, 3)).relu(), 0),
    ]
    rates = [1 / (measure * factors[number] + 1) for _, _, measure, number in parts]
    expected = [torch.lerp(old, p, rate.expand_as(p)) for (p, old, _, _), rate in zip(parts, rates, strict=True)]
    unchanged, versions = [p.clone() for p, *_ in odd], [p._version for p, *_ in parts]
    originals = [p.clone() for p, *_ in parts]
    assert _slowed_step.SlowedStep([*parts, *odd]).move(factors) == [True] * len(parts) + [False] * len(odd)
    torch.testing.assert_close([p for p, *_ in parts], expected)
    for (p, _, measure, _), original in zip(parts, originals, strict=True):
        full = (measure == 0).expand_as(p)
        assert_same(p[full], original[full])
    assert_same([p for p, *_ in odd], unchanged)
    assert all(p._version > version for (p, *_), version in zip(parts, versions, strict=True))


@pytest.mark.parametrize("kind", [gnt.AdaHAT, gnt.FGAdaHAT])
def test_runs_by_the_kernel_equal_those_by_torch_operations(monkeypatch, kind):
    def run() -> list[torch.Tensor]:
        net = conv_net()
        settings = {"importance": "contribution"} if kind is gnt.FGAdaHAT else {}
        hat = kind(net, gnt.walk(net), alpha=0.01, generator=torch.Generator().manual_seed(1), **settings)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        for task in range(2):
            hat.begin(task, optimizer, steps_per_epoch=4)
            for t in range(4):
                x, y = batch(t, 1, 8, 8)
                if kind is gnt.FGAdaHAT:
                    hat.observe(x, y)
                optimizer.zero_grad()
                ((net(x) - y).square().mean() + hat.penalty()).backward()
                optimizer.step()
            hat.end()
        return [each.detach() for each in net.parameters()]

    calls = []
    move = _slowed_step.SlowedStep.move
    monkeypatch.setattr(_slowed_step.SlowedStep, "move", lambda *given: calls.append(move(*given)) or calls[-1])
    by_kernel = run()
    assert any(all(done) for done in calls if done)
    monkeypatch.setattr(_slowed_step.SlowedStep, "move", lambda self, factors: [False] * len(self._parts))
    torch.testing.assert_close(by_kernel, run())
