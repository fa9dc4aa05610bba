"""Replacement of units under a `HAT`: what old tasks use stays, other units are replaced, outputs stay bit-equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gnt
from tests.helpers.small_runs import IMAGE_SHAPE, assert_same, conv_net, mlp
from tests.helpers.strategies import networks, optimizer_cases
from tests.protection.masked_runs import inputs, learn_steps, learn_task, make_hat, outputs
from tests.replacement.test_no_synchronization import NoSynchronization
from tests.twins.protection import ProtectedLayer

pytestmark = pytest.mark.filterwarnings("ignore:no capacity is left")
ALL: dict[str, Any] = {"replacement_rate": 1.0, "maturity_threshold": 0}


def train_beside(hat: gnt.HAT, optimizer: torch.optim.Optimizer, engine: gnt.GnT, shape: Any, tasks: int) -> int:
    """Train tasks; outputs of ended tasks and biases of used units never change. Returns how many units went."""
    x, seen, count = inputs(hat.model, shape), {}, 0
    for task in range(tasks):
        hat.begin(task, optimizer, steps_per_epoch=2)
        used = hat.layout.by_group(hat.cumulative.bool())
        kept = {slot.bias: used[g.name] for g in hat.groups for slot in g.incoming if slot.bias is not None}
        before = {bias: bias.detach().clone() for bias in kept}
        for step in range(4):
            learn_steps(hat, optimizer, range(step, step + 1), shape)
            for group, units in zip(engine.groups, engine.replaced, strict=True):
                assert not used[group.name][units].any()
                count += len(units)
        for bias, mask in kept.items():
            assert_same(bias.detach()[mask], before[bias][mask])
        hat.end()
        now = outputs(hat, x)
        assert_same({known: now[known] for known in seen}, seen)
        seen = now
    return count


@settings(max_examples=7)
@given(networks(), optimizer_cases(), st.booleans())
def test_outputs_of_ended_tasks_never_change_while_all_free_units_are_replaced(network, case, engine_first):
    """For torch's optimizers and gnt's, networks with norms and convolutions, and both orders of attachment."""
    net, shape = network
    optimizer, hat, engine = case.build(net.parameters()), None, None
    for which in ("engine", "hat") if engine_first else ("hat", "engine"):
        if which == "engine":
            engine = gnt.GnT(net, optimizer, **ALL).attach()
        else:
            try:
                hat = gnt.HAT(net, gnt.walk(net), sparsity=0.1, generator=torch.Generator().manual_seed(7))
            except ValueError as error:
                assume("normalized together" not in str(error))
                raise
    engine.protect = hat
    engine.follow(hat)
    train_beside(hat, optimizer, engine, shape, 3)


@pytest.mark.parametrize("kind", [gnt.optim.CBPSGD, gnt.optim.CBPAdamW])
def test_optimizers_with_an_engine_keep_what_old_tasks_use(kind):
    net = conv_net()
    hat = gnt.HAT(net, gnt.walk(net), sparsity=0.5, generator=torch.Generator().manual_seed(7))
    optimizer = kind(net, lr=0.05, weight_decay=0.1, protect=[hat, gnt.TopUnits(0.2, every=1)], **ALL)
    assert train_beside(hat, optimizer, optimizer.gnt, IMAGE_SHAPE, 3) > 20


def test_selection_equals_a_loop_that_passes_over_units_with_gates_that_are_off():
    """rate * eligible counts all free units; what is due and finds no unit with an open gate is dropped."""
    net, hat, optimizer = make_hat(mlp(4, 12, 10, 2))
    learn_task(hat, optimizer, 0)
    rate = 0.3
    engine = gnt.GnT(net, record=False, replacement_rate=rate, maturity_threshold=1, protect=hat)
    twins, replaced, dropped = [ProtectedLayer(12), ProtectedLayer(10)], 0, 0
    hat.begin(1, optimizer, steps_per_epoch=4)
    used = hat.layout.by_group(hat.cumulative)
    for step in range(12):
        with torch.no_grad():
            hat.embedding.copy_(torch.randn(22, generator=torch.Generator().manual_seed(step)) - 0.8)
        on = hat.layout.by_group(hat.embedding.detach() > 0)
        engine.update([torch.rand(3, 12), torch.rand(3, 10)])
        utilities = [group.state.corrected_utility.tolist() for group in engine.groups]
        units = engine.select()
        engine.replace(units)
        for group, twin, utility, chosen in zip(engine.groups, twins, utilities, units, strict=True):
            twin.age = [age + 1 for age in twin.age]
            protection = used[group.name].tolist()
            eligible = twin.eligible(protection, 1)
            assert group.state.eligible + len(chosen) == len(eligible)
            twin.accumulated += rate * len(eligible)
            due = int(twin.accumulated)
            twin.accumulated -= due
            takers = sorted((i for i in eligible if on[group.name][i]), key=lambda i: utility[i])
            assert chosen.tolist() == takers[:due]
            assert group.state.accumulated == twin.accumulated
            replaced, dropped = replaced + len(chosen), dropped + due - len(chosen)
            twin.age = [0 if i in chosen.tolist() else age for i, age in enumerate(twin.age)]
    assert min(replaced, dropped) > 2


def test_steps_with_nothing_due_do_not_wait_for_the_device_while_gates_move():
    net, hat, optimizer = make_hat(mlp(4, 12, 10, 2))
    learn_task(hat, optimizer, 0)
    engine = gnt.GnT(net, record=False, replacement_rate=0.0, maturity_threshold=0, protect=hat)
    engine.importance.evaluator.parts[0].on_cpu = False
    hat.begin(1, optimizer, steps_per_epoch=4)
    engine.read_protection()
    for step in range(4):
        learn_steps(hat, optimizer, range(step, step + 1))
        with NoSynchronization():
            engine.step([torch.rand(3, 12), torch.rand(3, 10)])


def test_adahat_keeps_units_that_more_than_so_many_tasks_use():
    net, hat, optimizer = make_hat(mlp(4, 12, 10, 2), kind=gnt.AdaHAT, alpha=0.1, protect_above=1)
    for task in range(2):
        learn_task(hat, optimizer, task)
    engine = gnt.GnT(net, protect=hat)
    masks = [torch.cat(list(hat.masks[task].values())) for task in range(2)]
    protected = [group.state.protected for group in engine.groups]
    assert_same(torch.cat(protected), masks[0] & masks[1])


def test_the_end_of_a_task_renews_what_no_task_uses():
    net, hat, optimizer = make_hat(mlp(4, 12, 10, 2))
    engine = gnt.GnT(net, optimizer, replacement_rate=0.0, protect=hat).attach()
    hat.begin(0, optimizer, steps_per_epoch=2)
    learn_steps(hat, optimizer, range(4))
    e, first = hat.embedding.detach().clone(), net[0].weight.detach().clone()
    hat.end(refresh=engine)
    free = hat.cumulative == 0
    ages = torch.cat([group.state.age for group in engine.groups])
    assert_same(ages, torch.where(free, 0, 4))
    assert_same(hat.embedding.detach(), e)
    assert not net[4].weight[:, free[12:]].any()
    assert_same((net[0].weight == first).all(1), ~free[:12])


def test_redo_and_layers_leave_used_units_and_closed_gates_alone():
    fc1, fc2 = nn.Linear(4, 12), nn.Linear(12, 2)
    layer = gnt.CBPLinear(fc1, fc2, **ALL)
    net = nn.Sequential(fc1, nn.ReLU(), layer, fc2)
    hat = gnt.HAT(net, gnt.walk([fc1, nn.ReLU(), fc2]), sparsity=0.0, generator=torch.Generator().manual_seed(7))
    layer.engine.protect = hat
    redo = gnt.ReDo([fc1, nn.ReLU(), fc2], tau=100.0, period=1, protect=hat)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    learn_task(hat, optimizer, 0)
    hat.begin(1, optimizer, steps_per_epoch=2)
    count = 0
    for step in range(3):
        learn_steps(hat, optimizer, range(step, step + 1))
        free = (hat.cumulative == 0) & (hat.embedding.detach() > 0)
        for units in (layer.engine.replaced[0], redo.step()[0]):
            assert_same(units.sort().values, free.nonzero().view(-1))
            count += len(units)
    assert count > 4


class Answers:
    """Says that units are available, and whatever else it is told to say."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def protected(self, group: gnt.UnitGroup) -> None:
        return None

    def available(self, group: gnt.UnitGroup) -> Any:
        return self.answer


def test_wrong_answers_about_available_units_are_refused():
    x: list[Tensor] = [torch.rand(3, 8)]
    for answer, error, message in (
        ([True] * 8, TypeError, "must return a tensor of bools or None, got list"),
        (
            torch.ones(7, dtype=torch.bool),
            ValueError,
            r"must return a tensor of shape \(8,\) on cpu, got \(7,\) on cpu",
        ),
    ):
        engine = gnt.GnT(mlp(4, 8, 2), record=False, protect=Answers(answer), **ALL)
        with pytest.raises(error, match=rf"available\(\) of Answers, for group '0', {message}"):
            engine.step(x)
    mask = torch.arange(8) < 3
    engine = gnt.GnT(
        mlp(4, 8, 2), record=False, protect=[Answers(mask), Answers(~mask | (torch.arange(8) == 1))], **ALL
    )
    assert engine.step(x)[0].tolist() == [1]
    engine.update(x)
    assert [unit for unit, _ in engine.dry_run().groups[0].units] == [1]
    broken = Answers(None)
    broken.available = 3
    with pytest.raises(TypeError, match="available of Answers, an object in protect, must be a method"):
        gnt.GnT(mlp(), protect=broken)


@pytest.mark.parametrize("engine_first", [True, False])
def test_an_attached_engine_steps_after_weights_have_their_values_back(engine_first):
    net, hat, optimizer = make_hat()
    learn_task(hat, optimizer, 0)
    frozen = net[2].weight.detach().clone()
    seen = []

    class Watch(gnt.GnT):
        def step_recorded(self) -> bool:
            seen.append(net[2].weight.detach().clone())
            return super().step_recorded()

    def attach() -> None:
        Watch(net, optimizer, replacement_rate=0.0).attach()

    if engine_first:
        attach()
    hat.begin(1, optimizer, steps_per_epoch=2)
    if not engine_first:
        attach()
    learn_steps(hat, optimizer, range(1))
    held = torch.outer(hat.masks[0]["2"], hat.masks[0]["0"])
    assert held.any()
    assert len(seen) == 1
    assert_same(seen[0][held], frozen[held])


def test_answers_to_an_engine():
    net, hat, optimizer = make_hat()
    group, engine_group = hat.groups[0], gnt.walk(net)[0]
    assert not hat.protected(group).any()
    assert hat.movable_bias(net[2].bias).all()
    learn_task(hat, optimizer, 0)
    used = hat.masks[0]
    assert_same(hat.protected(engine_group), used["0"])
    assert hat.protected(engine_group) is hat.protected(engine_group)
    assert_same(hat.movable_bias(net[2].bias), ~used["2"])
    assert not hat.movable_bias(net[4].bias).any()  # the output layer has been trained
    assert hat.movable_bias(nn.Linear(2, 2).bias) is None
    assert hat.protected(gnt.walk(mlp())[0]) is None
    assert hat.available(group) is None
    hat.begin(1, optimizer, steps_per_epoch=2)
    assert_same(hat.protected(group), used["0"])
    assert_same(hat.available(engine_group), hat.embedding[:8] > 0)


def test_a_replaced_unit_keeps_its_embedding_and_loses_its_optimizer_state():
    net, hat, optimizer = make_hat()
    hat.begin(0, optimizer, steps_per_epoch=4)
    engine = gnt.GnT(net, optimizer, follow=[hat])
    learn_steps(hat, optimizer, range(2))
    e, momentum = hat.embedding.detach().clone(), optimizer.state[hat.embedding]["momentum_buffer"]
    before = momentum.clone()
    engine.replace([torch.tensor([1, 3]), torch.tensor([0])])
    assert_same(hat.embedding.detach(), e)
    reset = torch.zeros(14, dtype=torch.bool).index_fill(0, torch.tensor([1, 3, 8]), True)
    assert_same(momentum, before.masked_fill(reset, 0.0))
