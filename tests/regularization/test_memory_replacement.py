"""`EWC`, `SI`, `MAS` when units are replaced, in networks of several kinds: importance, anchors and paths."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gnt
from tests.helpers.training_run import same_bits
from tests.twins.followers import all_indices, followed_copy, owned_by, tensors_of
from tests.twins.networks import NETWORKS, Builder, conv_flatten, grouped, mlp_norms

METHODS: dict[str, Any] = {
    "EWC": lambda net: gnt.EWC(net, 5.0),
    "MAS": lambda net: gnt.MAS(net, 0.5),
    "SI": lambda net: gnt.SI(net, 0.5),
}


def data(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, shape: tuple[int, ...], steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        net(data(shape, step)).square().mean().backward()
        optimizer.step()


def trained(build: Builder, kind: str) -> tuple[nn.Sequential, torch.optim.Optimizer, Any]:
    """A network in its second task, its optimizer, and the attached method."""
    torch.manual_seed(2)
    net, shape = nn.Sequential(*build()).double(), NETWORKS[build]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    method = METHODS[kind](net).attach(optimizer)
    train(net, optimizer, shape, range(3))
    method.consolidate() if kind == "SI" else method.consolidate(net, data(shape, 9))
    train(net, optimizer, shape, range(3, 5))
    return net, optimizer, method


def penalty_gradients(method: Any, net: nn.Module) -> list[Tensor]:
    net.zero_grad()
    method.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in net.parameters()]


@pytest.mark.parametrize("build", [mlp_norms, grouped, conv_flatten])
@pytest.mark.parametrize("kind", METHODS)
def test_what_replaced_units_own_has_importance_0_and_its_new_values_as_anchors(kind: str, build: Builder) -> None:
    """Element by element: the rest keeps its importance, and a consumer's anchor moves with its bias."""
    net, optimizer, method = trained(build, kind)
    engine = gnt.GnT(net, optimizer, follow=[method], generator=torch.Generator().manual_seed(1))
    net(data(NETWORKS[build], 7))
    engine.update()
    paths = {"path": method.path} if kind == "SI" else {}
    old = copy.deepcopy({"importance": method._importance, "anchors": method.anchors, **paths})
    gradients, before = penalty_gradients(method, net), tensors_of(net)
    chosen = [[group.num_units - 1, 1] for group in engine.groups]
    engine.replace([torch.tensor(units) for units in chosen])
    after, owned = tensors_of(net), owned_by(engine.groups, chosen)
    consumers = {slot.module for group in engine.groups for slot in group.outgoing}
    keys = {p: (module, name) for module in net.modules() for name, p in module._parameters.items()}
    moved = 0.0
    for i, parameter in enumerate(net.parameters()):
        key = keys[parameter]
        own, is_bias = owned.get(key, set()), key[1] == "bias" and key[0] in consumers
        expected = followed_copy(old["anchors"][i], before[key], after[key], own, is_consumer_bias=is_bias)
        assert same_bits(method.anchors[i], expected)
        for name in ("importance", *paths):
            now = method.importance(parameter) if name == "importance" else method.path[i]
            expected = old[name][i].clone()
            for index in own:
                expected[index] = 0.0
            assert same_bits(now, expected), (name, key)
        moved += float((after[key] - before[key]).abs().sum()) if is_bias else 0.0
    assert moved > 0, "the test proves nothing: no bias was moved"
    for new, gradient, parameter in zip(penalty_gradients(method, net), gradients, net.parameters(), strict=True):
        own = owned.get(keys[parameter], set())
        kept = torch.ones_like(gradient, dtype=torch.bool)
        for index in all_indices(gradient):
            kept[index] = index not in own
        torch.testing.assert_close(new[kept], gradient[kept], rtol=1e-9, atol=1e-12)
        assert not new[~kept].any()
    train(net, optimizer, NETWORKS[build], range(2))


@pytest.mark.parametrize("kind", METHODS)
def test_strength_0_beside_an_engine_and_an_engine_of_rate_0_beside_a_method_change_nothing(kind: str) -> None:
    """A method of strength 0 with an engine is the engine alone; an engine of rate 0 with a method the method alone."""

    def run(strength: float | None, rate: float | None) -> Tensor:
        torch.manual_seed(2)
        net, shape = nn.Sequential(*conv_flatten()).double(), NETWORKS[conv_flatten]
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        method = METHODS[kind](net)
        if strength is not None:
            method.strength = strength
            method.attach(optimizer)
        if rate is not None:
            engine = gnt.GnT(
                net,
                optimizer,
                replacement_rate=rate,
                maturity_threshold=1,
                follow=[] if strength is None else [method],
                generator=torch.Generator().manual_seed(1),
            ).attach()
        for _ in range(2):
            train(net, optimizer, shape, range(3))
            if strength is not None:
                method.consolidate() if kind == "SI" else method.consolidate(net, data(shape, 9))
        assert rate is None or (sum(group.state.replaced for group in engine.groups) > 0) == (rate > 0)
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    assert same_bits(run(0.0, None), run(None, None))
    assert same_bits(run(0.0, 0.2), run(None, 0.2))
    assert same_bits(run(5.0, 0.0), run(5.0, None))
    assert not same_bits(run(5.0, None), run(None, None))
