"""Properties of `EWC` for drawn networks, data, modes and tasks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gnt
from tests.twins import memory as twin
from tests.twins.networks import conv_flatten, mlp1, mlp_norms

SHAPES: dict[Any, tuple[int, ...]] = {mlp1: (5,), mlp_norms: (5,), conv_flatten: (2, 6, 6)}


def task(seed: int, shape: tuple[int, ...], size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, *shape, dtype=torch.float64, generator=generator), torch.randint(
        3, (size,), generator=generator
    )


def move(net: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-14)


@settings(max_examples=12, deadline=None)
@given(
    build=st.sampled_from(list(SHAPES)),
    form=st.sampled_from([{}, {"mode": "online", "decay": 0.6}, {"mode": "online"}]),
    fisher=st.sampled_from(["exact", "empirical", "sample"]),
    tasks=st.integers(1, 3),
    size=st.integers(1, 7),
    chunk=st.integers(1, 4),
    pieces=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_properties_of_importance_and_penalty(
    build: Any, form: dict[str, Any], fisher: Any, tasks: int, size: int, chunk: int, pieces: int, seed: int
) -> None:
    torch.manual_seed(seed)
    net, shape = nn.Sequential(*build()).double(), SHAPES[build]
    parameters = list(net.parameters())
    draws = torch.Generator().manual_seed(seed)
    ewc = gnt.EWC(net, 0.7, fisher=fisher, chunk=chunk, generator=draws, **form)
    for number in range(tasks):
        x, y = task(seed + number, shape, size)
        before, grads = [p.detach().clone() for p in parameters], [p.grad for p in parameters]
        old = [ewc.importance(p).clone() for p in parameters]
        ewc.consolidate(net, list(zip(x.split(pieces), y.split(pieces), strict=True)))
        assert all(torch.equal(p, q) for p, q in zip(parameters, before, strict=True))
        assert all(p.grad is g for p, g in zip(parameters, grads, strict=True))
        if number == 0 or form:
            assert ewc().item() == 0.0
        if fisher != "sample":
            evaluated = copy.deepcopy(net).eval()
            new = twin.fisher(evaluated, x, y if fisher == "empirical" else None)
            decay = form.get("decay", 1.0)
            found = [ewc.importance(p) for p in parameters]
            assert_close(found, [decay * a + b for a, b in zip(old, new, strict=True)])
            order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
            again = gnt.EWC(net, 0.7, fisher=fisher)
            again.consolidate(net, (x[order], y[order]))
            assert_close([again.importance(p) for p in parameters], new)
        move(net, seed + number)
    assert all((ewc.importance(p) >= 0).all() for p in parameters)
    value = ewc()
    assert value.item() >= 0.0
    written = 0.35 * sum(
        (ewc.importance(p) * (p - mu) ** 2).sum() for p, mu in zip(parameters, ewc.anchors, strict=True)
    )
    torch.testing.assert_close(value, written)
    expected = torch.autograd.grad(written, parameters)
    if value.requires_grad:
        found = torch.autograd.grad(value, parameters, materialize_grads=True)
        assert_close(list(found), list(expected))
    loaded = gnt.EWC(net, 0.7, fisher=fisher, chunk=chunk, generator=torch.Generator(), **form)
    loaded.load_state_dict(ewc.state_dict())
    for each in (ewc, loaded):  # the round trip goes on with the same bits, draws of labels included
        each.consolidate(net, task(7, shape, 3))
    assert str(ewc.state_dict()) == str(loaded.state_dict())
    assert torch.equal(ewc(), loaded())
