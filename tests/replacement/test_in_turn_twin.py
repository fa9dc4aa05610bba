"""Groups, consumers and taps that take part in turn: the engine against a literal twin, on random sequences."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import gnt
from tests.helpers.tasks_in_turn import TasksInTurn
from tests.twins.in_turn import InTurn, Reader, TwinGroup

SETTINGS = {"replacement_rate": 0.15, "maturity_threshold": 3, "decay_rate": 0.85}
# tasks of the sequence, and whether the group of the shared layer belongs to the engine
NETS = {"several taps": ((0, 1, 2, 3), True), "one tap": ((0, 1), True), "single consumers": ((0, 1), False)}
LAYERS = ("shared", "hidden.0", "hidden.1", "out.0")  # one is frozen at a time


class Pair:
    """Two copies of a network: one for the engine, one for the twin."""

    def __init__(self, name: str, utility: str, seed: int, *, attached: bool, kernels: bool, every: int) -> None:
        self.tasks, shared = NETS[name]
        self.net = TasksInTurn()
        self.twin_net = copy.deepcopy(self.net)
        self.attached, self.random = attached, random.Random(seed)
        self.opts = [torch.optim.SGD(net.parameters(), lr=0.05) for net in (self.net, self.twin_net)]
        groups, twin_groups = (net.groups(self.tasks)[not shared :] for net in (self.net, self.twin_net))
        generator = torch.Generator().manual_seed(seed)
        self.engine = gnt.GnT(
            groups, self.opts[0], utility=utility, kernels=kernels, generator=generator, measure_every=every, **SETTINGS
        )
        if attached:
            self.engine.attach()
        self.twin = InTurn([_twin_group(group) for group in twin_groups], *SETTINGS.values(), utility, every)
        self.data = torch.Generator().manual_seed(seed)
        self.frozen = ""

    def step(self) -> list[list[int]]:
        """Train both on the same random micro-batches. Returns the units that the engine has replaced."""
        if self.random.random() < 0.15:
            self._freeze("" if self.frozen else self.random.choice(LAYERS))
        batches = [self._batch() for _ in range(self.random.choice([1, 1, 2, 3] + [0] * self.attached))]
        with self._record() as seen:
            self._train(self.twin_net, self.opts[1], batches)
        self.twin.update(seen)
        self._train(self.net, self.opts[0], batches)
        units = self.engine.replaced if self.attached else self.engine.step()
        return [each.tolist() for each in units]

    def _batch(self) -> tuple[Tensor, list[int]]:
        """A batch, and the tasks that one forward runs on it."""
        tasks = self.random.sample(self.tasks, self.random.choice([1, 1, 2]))
        x = torch.randn(self.random.choice([1, 3, 4]), 4, dtype=torch.float64, generator=self.data)
        return x, tasks

    def _freeze(self, layer: str) -> None:
        self.frozen = layer
        for net in (self.net, self.twin_net):
            for name, parameter in net.named_parameters():
                parameter.requires_grad_(name != f"{layer}.weight")

    def _train(self, net: nn.Module, opt: torch.optim.Optimizer, batches: list[tuple[Tensor, list[int]]]) -> None:
        opt.zero_grad()
        self.forward = 0
        for x, tasks in batches:
            self.forward += 1
            net(x, tasks).square().mean().backward()
        opt.step()

    @contextlib.contextmanager
    def _record(self) -> Iterator[dict[nn.Module, dict[int, Tensor]]]:
        seen: dict[nn.Module, dict[int, Tensor]] = {}
        layers = [module for module in self.twin_net.modules() if isinstance(module, nn.Linear)]
        handles = [
            layer.register_forward_pre_hook(
                lambda module, args: seen.setdefault(module, {}).__setitem__(self.forward, args[0])
            )
            for layer in layers
        ]
        yield seen
        for handle in handles:
            handle.remove()


def _twin_group(group: gnt.units.UnitGroup) -> TwinGroup:
    return TwinGroup(group.producer, [Reader(slot.module, slot.tap, slot.offset) for slot in group.outgoing])


def assert_same_state(pair: Pair, where: str) -> None:
    for group, twin in zip(pair.engine.groups, pair.twin.groups, strict=True):
        state = group.state
        units = range(group.num_units)
        assert state.updates == twin.updates, f"{where}, {group.name}: updates"
        exact = {"age": twin.age, "last_active": twin.last_active}
        close = {
            "utility": twin.utility,
            "corrected_utility": [twin.corrected_utility(i, pair.twin.decay) for i in units],
            "mean_features": [twin.mean_feature[tap] for tap in twin.taps],
            "corrected_mean_features": [[twin.corrected_mean(t, i, pair.twin.decay) for i in units] for t in twin.taps],
        }
        if state.missed is not None:
            exact["missed"] = [twin.missed[tap] for tap in twin.taps]
        for name, expected in exact.items():
            assert getattr(state, name).tolist() == expected, f"{where}, {group.name}: {name}"
        for name, values in close.items():
            expected_values = torch.tensor(values, dtype=torch.float64)
            message = f"{where}, {group.name}: {name}"
            torch.testing.assert_close(getattr(state, name), expected_values, rtol=1e-10, atol=1e-13, msg=message)
        assert state.accumulated == pytest.approx(twin.accumulated, abs=1e-12), f"{where}, {group.name}"


def copy_weights(pair: Pair, where: str) -> None:
    """Compare the networks, then copy the weights, so that both start the next step equal."""
    theirs = dict(pair.twin_net.named_parameters())
    for name, mine in pair.net.named_parameters():
        torch.testing.assert_close(mine, theirs[name], rtol=1e-10, atol=1e-13, msg=f"{where}: {name}")
        theirs[name].data.copy_(mine)


@pytest.mark.filterwarnings("ignore:the weight of .* is frozen:UserWarning")
@pytest.mark.parametrize(
    ("attached", "kernels", "every", "name", "utility"),
    [
        *(
            (both, both, 1, name, utility)
            for both in (False, True)
            for name, utility in (
                ("several taps", "adaptable_contribution"), ("several taps", "weight"),
                ("one tap", "contribution"), ("one tap", "feature_by_input"),
                ("single consumers", "adaptable_contribution"), ("single consumers", "contribution"),
            )
        ),
        (True, False, 3, "several taps", "adaptable_contribution"),
        (False, True, 4, "single consumers", "contribution"),
        (True, True, 3, "single consumers", "adaptable_contribution"),
    ],
)  # fmt: skip
def test_the_engine_equals_the_twin_where_layers_run_in_turn(name, utility, attached, kernels, every):
    pair = Pair(name, utility, seed=1, attached=attached, kernels=kernels, every=every)
    for t in range(60):
        where = f"step {t}"
        units, expected = pair.step(), pair.twin.select()
        assert [sorted(each) for each in units] == [sorted(each) for each in expected], where
        incoming = [
            group.producer.weight.detach().numpy()[chosen]
            for group, chosen in zip(pair.engine.groups, units, strict=True)
        ]
        pair.twin.replace(units, incoming)
        assert_same_state(pair, where)
        copy_weights(pair, where)
    assert min(group.state.replaced for group in pair.engine.groups) > 3
