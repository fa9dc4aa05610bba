"""`TopUnits`: units of highest long-term importance are never replaced, and their learning is slowed."""

from __future__ import annotations

import copy
import io
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gnt
from gnt import TopUnits
from gnt.optim import CBPSGD, CBPAdamW
from tests.helpers.compiled_learners import assert_states_close, eager_and_compiled, run_both, run_graphs_uncompiled
from tests.helpers.ownership import hidden_layers
from tests.helpers.small_runs import IMAGE_SHAPE, assert_same, conv_net, full_state, make_run, mlp, train
from tests.helpers.strategies import engine_settings, seeds
from tests.replacement.test_no_synchronization import NoSynchronization
from tests.replacement.test_protection import Keep
from tests.twins.top_units import TopLayer

CALLS = ("step", "step", "step", "protect", "replace", "restart", "save and load", "copy", "rebind")
TOPS = st.builds(
    TopUnits,
    fraction=st.floats(0.05, 1.0),
    slow=st.just(1.0),
    decay_rate=st.sampled_from([0.0, 0.9, 0.999]),
    every=st.integers(1, 3),
    margin=st.sampled_from([0.0, 0.5]),
    average=st.sampled_from(["ema", "max"]),
)


class HeldRun:
    """An engine that holds units, beside another protecting object and its twin, in float64."""

    sizes = (7, 5)

    def __init__(self, engine: dict[str, Any], top: TopUnits, seed: int) -> None:
        self.net = mlp(2, *self.sizes, 1).double()
        self.keep, self.protection = Keep(), [[0.0] * size for size in self.sizes]
        self.data = torch.Generator().manual_seed(seed)
        protect = [self.keep, top]
        self.engine = gnt.GnT(self.net, record=False, protect=protect, generator=self.data, **engine)
        self.twins = [TopLayer(size, top) for size in self.sizes]
        self.due, self.replaced = [Fraction(0)] * 2, [0] * 2

    def step(self) -> None:
        rate, maturity = self.engine.replacement_rate, self.engine.maturity_threshold
        with torch.no_grad():
            for weight in self.net.parameters():
                weight.normal_(generator=self.data)
        held = [set(group.state.held.tolist()) for group in self.engine.groups]
        units = self.engine.step([torch.randn(2, size, generator=self.data).double() for size in self.sizes])
        for number, twin in enumerate(self.twins):
            twin.age = [age + 1 for age in twin.age]
            protection, chosen = self.protection[number], units[number].tolist()
            twin.release(protection)
            utility = self.utilities[number]
            twin.choose(utility, protection, maturity)
            protection = twin.with_held(protection)
            self.due[number] += Fraction(rate) * len(twin.eligible(protection, maturity))
            self.replaced[number] += len(chosen)
            assert chosen == twin.select(utility, protection, rate, maturity)
            assert abs(self.replaced[number] - self.due[number]) < 1 + 1e-9
            assert not set(chosen) & set(twin.held)
            assert held[number].isdisjoint(chosen) or self.engine.groups[number].state.updates % twin.top.every == 0
            twin.restart(chosen)
        self.check()

    def check(self) -> None:
        for group, twin, protection in zip(self.engine.groups, self.twins, self.protection, strict=True):
            state = group.state
            assert state.age.tolist() == twin.age
            assert state.held.tolist() == twin.held
            eligible = twin.eligible(twin.with_held(protection), self.engine.maturity_threshold)
            assert state.mature.nonzero().view(-1).tolist() == eligible
            assert state.eligible == len(eligible)
            assert state.num_protected == sum(p == 1 for p in twin.with_held(protection))


@settings(max_examples=20)
@given(
    engine=engine_settings(accumulate=True, utility="contribution", init="xavier"),
    top=TOPS,
    calls=st.lists(st.sampled_from(CALLS), min_size=8, max_size=20),
    seed=seeds,
    data=st.data(),
)
def test_held_units_and_counts_equal_a_loop_over_units(engine, top, calls, seed, data):
    """Beside another protector, replacements by hand and by other engines, copies and loaded states.

    Over any number of updates the number of replaced units is within 1 of the sum of rate * eligible.
    """
    run = HeldRun(engine, top, seed)
    utilities = run.engine.select_due

    def select_due() -> list[Tensor]:
        run.utilities = [group.state.corrected_utility.tolist() for group in run.engine.groups]
        return utilities()

    run.engine.select_due = select_due
    for call in calls:
        number = data.draw(st.integers(0, 1))
        group, twin, size = run.engine.groups[number], run.twins[number], run.sizes[number]
        units = data.draw(st.lists(st.integers(0, size - 1), unique=True, max_size=2))
        if call == "step":
            run.step()
        elif call == "copy":
            del run.engine.select_due
            run.net, run.engine, run.keep, run.data = copy.deepcopy((run.net, run.engine, run.keep, run.data))
            utilities, run.engine.select_due = run.engine.select_due, select_due
        elif call == "save and load":
            run.engine.load_state_dict(run.engine.state_dict())
        elif call == "rebind":
            run.engine.rebind(run.net)
        elif call == "protect":
            run.protection[number] = [float(i in units) for i in range(size)]
            run.keep.by_name[f"g{group.name}"] = torch.tensor(run.protection[number])
            run.engine.read_protection()
            twin.release(run.protection[number])
        elif call == "restart":
            run.engine.restart_units(group, torch.tensor(units, dtype=torch.int64))
            twin.restart(units)
        elif not set(units) & {i for i, p in enumerate(twin.with_held(run.protection[number])) if p == 1}:
            run.engine.replace([units if i == number else [] for i in range(2)])
            twin.restart(units)
        else:
            with pytest.raises(ValueError, match=r"are protected .* cannot be replaced"):
                run.engine.replace([units if i == number else [] for i in range(2)])
        run.check()


def grouped_head() -> nn.Sequential:
    """Units that a grouped convolution reads, as the output layer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.PReLU(6), nn.Conv2d(6, 3, 2, groups=3))


def slowed(net: nn.Sequential, held: list[list[int]], outgoing: str) -> dict[str, Tensor]:
    """For each parameter which elements are slowed: what computes held units, and their columns."""
    masks = {name: torch.zeros_like(param, dtype=torch.bool) for name, param in net.named_parameters()}
    layers = hidden_layers(net)
    for layer, units in zip(layers, held, strict=True):
        for name in (
            layer.incoming,
            layer.bias,
            *layer.scales,
            *([layer.outgoing] if outgoing == "all" or layer is layers[-1] else []),
        ):
            if name in masks:
                masks[name] |= torch.isin(layer.owners[name], torch.tensor(units, dtype=torch.int64))
    return masks


OPTIMIZERS = {
    "SGD": lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda net: torch.optim.AdamW(net.parameters(), lr=0.05),
    "AdamGnT": lambda net: gnt.AdamGnT(net.parameters(), lr=0.05),
    "CBPSGD": lambda net: CBPSGD(net, lr=0.05, replacement_rate=0.0, maturity_threshold=1),
    "CBPAdamW with kernels": lambda net: CBPAdamW(
        net, lr=0.05, replacement_rate=0.0, maturity_threshold=1, kernels=True
    ),
}


@pytest.mark.parametrize("slow", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("make", "shape"), [(mlp, (4,)), (conv_net, IMAGE_SHAPE), (grouped_head, IMAGE_SHAPE)])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_steps_of_held_units_are_multiplied_by_the_factor(kind, make, shape, slow):
    """Against the same optimizer without an engine that holds: w <- w_before + slow * (w - w_before)."""
    nets = [make().double(), make().double()]
    optimizers = [OPTIMIZERS[kind](net) for net in nets]
    outgoing = "outputs" if kind in ("AdamW", "CBPSGD") else "all"
    top = TopUnits(0.4, slow=slow, every=2, outgoing=outgoing)
    engine = (
        getattr(optimizers[0], "gnt", None)
        or gnt.GnT(nets[0], optimizers[0], replacement_rate=0.0, maturity_threshold=1).attach()
    )
    engine.protect = top
    held = 0
    for t in range(7):
        masks = slowed(nets[1], [group.state.held.tolist() for group in engine.groups], outgoing)
        before = {name: param.detach().clone() for name, param in nets[1].named_parameters()}
        x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(t)).double()
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            for name, param in nets[1].named_parameters():
                there = before[name] + slow * (param - before[name])
                param.copy_(
                    torch.where(masks[name], param if slow == 1 else before[name] if slow == 0 else there, param)
                )
        held += sum(int(mask.sum()) for mask in masks.values())
        for (name, mine), theirs in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
            if slow == 0.3:
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9, msg=name)
                theirs.data.copy_(mine)  # AdamW magnifies rounding in gradients that are 0
            else:
                assert_same(mine.detach(), theirs.detach(), name)
    assert held > 20
    assert (engine._slowing is not None) == (slow < 1)


def test_replaced_units_stay_as_they_were_made():
    """Steps are slowed before units are replaced, also if protection is assigned to an attached engine."""
    net, optimizer, engine = make_run(mlp(), replacement_rate=0.3, maturity_threshold=1)
    engine.attach().protect = TopUnits(0.5, slow=0.5, every=1)
    seen = 0
    for t in range(12):
        train(net, optimizer, None, range(t, t + 1))
        for number, units in enumerate(engine.replaced):
            columns = net[2 * number + 2].weight[:, units]
            new = engine.replaced[1] if number == 0 else []
            kept = [k for k in range(len(columns)) if k not in new]
            assert not columns[kept].any()
            seen += len(units)
    assert seen > 6


@pytest.mark.parametrize("slow", [0.2, 1.0])
def test_steps_do_not_wait_for_the_device(slow):
    net, optimizer, engine = make_run(mlp(), protect=TopUnits(0.3, slow=slow, every=3))
    (part,) = engine.importance.evaluator.parts
    part.on_cpu = False
    engine.replace([[0], [0]])  # the first replacement rounds the bounds on the host
    chosen, replaced = set(), 0
    for _ in range(30):
        net(torch.randn(4, 4)).square().mean().backward()
        with NoSynchronization():
            optimizer.step()
            replaced += sum(map(len, engine.step()))
        chosen.add(tuple(engine.groups[0].state.held.tolist()))
    assert len(chosen) > 2
    assert replaced > 5


@pytest.mark.parametrize("kind", ["sgd", "adamgnt"])
def test_a_resumed_run_continues_bit_for_bit(kind):
    def run() -> tuple[Any, Any, Any]:
        net, optimizer, engine = make_run(mlp(), kind, protect=TopUnits(0.3, every=3, average="max"))
        return net, optimizer, engine.attach()

    net, optimizer, engine = run()
    train(net, optimizer, None, range(11))
    file = io.BytesIO()
    torch.save((net.state_dict(), optimizer.state_dict()), file)
    copied = copy.deepcopy((net, optimizer, engine))
    train(net, optimizer, None, range(11, 24))
    file.seek(0)
    loaded = run()
    for each, state in zip(loaded[:2], torch.load(file, weights_only=True), strict=True):
        each.load_state_dict(state)
    for other in (loaded, copied):
        train(*other[:2], None, range(11, 24))
        assert_same(full_state(net, optimizer, engine), full_state(*other))
    assert len(engine.groups[0].state.held) == 2


def test_states_with_and_without_held_units_load_into_each_other():
    net, optimizer, engine = make_run(mlp(), protect="top:0.3")
    assert engine.protect == TopUnits(0.3)
    train(net, optimizer, engine, range(10))
    plain = make_run(mlp())[2]
    plain.load_state_dict(engine.state_dict())
    assert not len(plain.groups[0].state.held)
    engine.load_state_dict(plain.state_dict())
    assert not len(engine.groups[0].state.held)
    train(net, optimizer, engine, range(10, 20))
    assert len(engine.groups[0].state.held) == 2
    engine.protect = None
    assert engine.groups[0].state.protected is None
    assert not optimizer._optimizer_step_post_hooks
    state = engine.groups[0].state
    assert state.eligible == int(state.mature.sum())


def test_an_importance_of_its_own_takes_the_place_of_the_utility():
    net = mlp(4, 8, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    importance = gnt.importance.Importance(net, "weight", average="latest").attach(optimizer)
    top = TopUnits(0.25, slow=1.0, decay_rate=0.0, every=1, importance=importance)
    engine = gnt.GnT(net, optimizer, maturity_threshold=0, protect=top, follow=[importance]).attach()
    train(net, optimizer, None, range(3))
    assert engine.groups[0].state.held.tolist() == net[2].weight.abs().mean(0).topk(2).indices.sort().values.tolist()
    with pytest.raises(ValueError, match="importance of TopUnits does not have group '0': build it from the groups"):
        gnt.GnT(mlp(4, 8, 2), protect=top)


def test_layers_hold_units():
    fc1, fc2 = nn.Linear(4, 8), nn.Linear(8, 2)
    settings = {"replacement_rate": 1.0, "maturity_threshold": 1}
    layer = gnt.CBPLinear(fc1, fc2, protect=TopUnits(0.5, slow=0.0, every=1), **settings)
    net = nn.Sequential(fc1, nn.ReLU(), layer, fc2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    train(net, optimizer, None, range(2))
    held = layer.group.state.held.tolist()
    before = fc1.weight[held].clone(), fc1.bias[held].clone(), fc2.weight[:, held].clone()
    train(net, optimizer, None, range(2, 6))
    assert len(held) == 4
    assert layer.group.state.held.tolist() == held
    assert_same(before, (fc1.weight[held], fc1.bias[held], fc2.weight[:, held]))
    assert layer.group.state.replaced > 4


WRONG = [
    (lambda: gnt.GnT(mlp(), protect="top:1.5"), ValueError, r"share in \(0, 1\], such as 'top:0.2', got 'top:1.5'"),
    (lambda: gnt.GnT(mlp(), protect="top:"), ValueError, r"share in \(0, 1\], such as 'top:0.2', got 'top:'"),
    (lambda: gnt.GnT(mlp(), protect="hat"), TypeError, r"protect must be .* a string such as 'top:0.2' .* got 'hat'"),
    (lambda: gnt.GnT(mlp(), protect=["top:0.1", TopUnits(0.2)]), ValueError, "protect must have one TopUnits at most"),
    (lambda: gnt.GnT(mlp(), protect="top:0.2"), ValueError, "slows the steps of an optimizer, and the engine has none"),
    (lambda: gnt.ReDo(mlp(), protect="top:0.2"), ValueError, "protect of ReDo must be objects with a method protected"),
    (lambda: TopUnits(0.0), ValueError, r"fraction must be a number in \(0, 1\], got 0.0"),
    (lambda: TopUnits(0.2, slow=2), ValueError, r"slow must be a number in \[0, 1\], got 2"),
    (lambda: TopUnits(0.2, decay_rate=1.0), ValueError, r"decay_rate must be a number in \[0, 1\), got 1.0"),
    (lambda: TopUnits(0.2, every=0), ValueError, "every must be an integer >= 1, got 0"),
    (lambda: TopUnits(0.2, margin=-1), ValueError, "margin must be a finite number >= 0, got -1"),
    (lambda: TopUnits(0.2, average="mean"), ValueError, "average must be one of ema, max, got 'mean'"),
    (lambda: TopUnits(0.2, outgoing="none"), ValueError, "outgoing must be one of all, outputs, got 'none'"),
    (lambda: TopUnits(0.2, importance="weight"), TypeError, "importance must be a gnt.importance.Importance or None"),
]


@pytest.mark.parametrize(("build", "error", "message"), WRONG)
def test_settings_out_of_range_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_a_compiled_learner_slows_as_the_eager_one_does(monkeypatch):
    graphs = run_graphs_uncompiled(monkeypatch)
    learners = eager_and_compiled(mlp().double(), protect="top:0.2", opt="adam", step_size=0.01)
    assert run_both(*learners, range(30)) > 5
    assert_states_close(*learners)
    assert len(graphs) == 1
