"""Protected units are never replaced, soft protection raises the rank, and counts apply to the unprotected units."""

from __future__ import annotations

import copy
import warnings
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gnt
from gnt.units import UnitGroup
from tests.helpers.compiled_learners import run_graphs_uncompiled
from tests.helpers.small_runs import assert_same, make_run, mlp, train
from tests.helpers.strategies import engine_settings, seeds
from tests.replacement.test_no_synchronization import NoSynchronization
from tests.twins.protection import ProtectedLayer


class Keep:
    """Protects units by the name of their group; None for groups that it does not know."""

    def __init__(self, **protection: Any) -> None:
        self.by_name = protection
        self.calls = 0

    def protected(self, group: UnitGroup) -> Any:
        self.calls += 1
        return self.by_name.get(f"g{group.name}")


class KeepFirstHalf:
    """Protects the first half of the units of every group."""

    def __init__(self) -> None:
        self.masks: dict[str, Tensor] = {}
        self.calls = 0

    def protected(self, group: UnitGroup) -> Tensor:
        self.calls += 1
        if "CBPLinear" in group.name:
            return self.masks["0"]
        return self.masks.setdefault(group.name, torch.arange(group.num_units) < group.num_units // 2)


def protected_units(group: UnitGroup) -> list[int]:
    """The protected units that the engine knows of."""
    mask = group.state.protected
    return [] if mask is None else mask.nonzero().view(-1).tolist()


PROTECTIONS = st.sampled_from([0.0, 0.0, 0.25, 0.5, 0.999, 1.0, 1.0])
CALLS = (
    "step",
    "step",
    "step",
    "change",
    "change in place",
    "none",
    "all",
    "replace",
    "save and load",
    "copy",
    "rebind",
)


class ProtectedRun:
    """An engine with two protecting objects beside its twin, in float64; no two units have the same utility."""

    sizes = (5, 3)

    def __init__(self, settings: dict[str, Any], seed: int) -> None:
        self.net = mlp(2, *self.sizes, 1).double()
        self.keep = [Keep(), Keep()]
        self.protection = [[[0.0] * size for size in self.sizes] for _ in self.keep]
        self.data = torch.Generator().manual_seed(seed)
        self.engine = gnt.GnT(self.net, record=False, protect=self.keep, generator=self.data, **settings)
        self.twins = [ProtectedLayer(size) for size in self.sizes]
        self.due, self.replaced = [Fraction(0)] * 2, [0] * 2

    def set(self, source: int, number: int, values: list[float], *, in_place: bool = False) -> None:
        name, given = f"g{self.engine.groups[number].name}", torch.tensor(values, dtype=torch.float64)
        self.protection[source][number] = values
        now = self.keep[source].by_name.get(name)
        if in_place and now is not None and now.is_floating_point():
            now.copy_(given)
        else:
            self.keep[source].by_name[name] = given.bool() if set(values) <= {0.0, 1.0} else given

    def total(self, number: int) -> list[float]:
        """The larger of both protections of each unit."""
        return [max(pair) for pair in zip(*(source[number] for source in self.protection), strict=True)]

    def step(self) -> None:
        rate, maturity = self.engine.replacement_rate, self.engine.maturity_threshold
        with torch.no_grad():
            for weight in self.net.parameters():
                weight.normal_(generator=self.data)
        unchanged = [
            [number for number, p in enumerate(self.total(i)) if p == 1] == protected_units(group)
            for i, group in enumerate(self.engine.groups)
        ]
        dues = [group.state.next_due(rate) for group in self.engine.groups]
        before = [group.incoming[0].weight.clone() for group in self.engine.groups]
        self.engine.update([torch.randn(2, size, generator=self.data).double() for size in self.sizes])
        utilities = [group.state.corrected_utility.tolist() for group in self.engine.groups]
        units = self.engine.select()
        self.engine.replace(units)
        for number, (twin, group) in enumerate(zip(self.twins, self.engine.groups, strict=True)):
            twin.age = [age + 1 for age in twin.age]
            protection, chosen = self.total(number), units[number].tolist()
            self.due[number] += Fraction(rate) * len(twin.eligible(protection, maturity))
            self.replaced[number] += len(chosen)
            assert chosen == twin.select(utilities[number], protection, rate, maturity)
            assert group.state.accumulated == twin.accumulated
            assert abs(self.replaced[number] - self.due[number]) < 1 + 1e-9
            assert not unchanged[number] or (dues[number] == 1) == bool(chosen)
            assert all(protection[unit] < 1 for unit in chosen)
            # without the columns of replaced units of the layer before, which are 0 now
            columns = [i for i in range(before[number].shape[1]) if number == 0 or i not in units[0]]
            same = (group.incoming[0].weight == before[number])[:, columns].all(1)
            assert not columns or (~same).nonzero().view(-1).tolist() == sorted(chosen)
            twin.age = [0 if unit in chosen else age for unit, age in enumerate(twin.age)]

    def replace_by_hand(self, number: int, units: list[int]) -> None:
        chosen = [units if i == number else [] for i in range(2)]
        refused = [unit for unit in units if self.total(number)[unit] == 1]
        if refused:
            before = copy.deepcopy((self.net.state_dict(), self.engine.state_dict()))
            with pytest.raises(ValueError, match=r"are protected .* cannot be replaced") as error:
                self.engine.replace(chosen)
            assert str(refused) in str(error.value)
            assert_same(before, (self.net.state_dict(), self.engine.state_dict()))
        else:
            self.engine.replace(chosen)
            self.twins[number].age = [0 if unit in units else age for unit, age in enumerate(self.twins[number].age)]

    def restart_by_another(self, number: int, units: list[int]) -> None:
        """An engine that this one follows, and that knows nothing of protection, has replaced units."""
        self.engine.restart_units(self.engine.groups[number], torch.tensor(units))
        self.twins[number].age = [0 if unit in units else age for unit, age in enumerate(self.twins[number].age)]

    def check(self) -> None:
        """Compare ages and, if the objects' answers are in force, the number of eligible units."""
        self.engine.read_protection()
        for number, (group, twin) in enumerate(zip(self.engine.groups, self.twins, strict=True)):
            assert group.state.age.tolist() == twin.age
            eligible = twin.eligible(self.total(number), self.engine.maturity_threshold)
            assert group.state.mature.nonzero().view(-1).tolist() == eligible
            assert group.state.eligible == len(eligible)


@given(
    settings=engine_settings(accumulate=True, utility="contribution", init="xavier"),
    calls=st.lists(st.sampled_from(CALLS), min_size=8, max_size=24),
    seed=seeds,
    data=st.data(),
)
def test_selection_equals_a_loop_over_units_while_protection_changes(settings, calls, seed, data):
    """For any order of steps, changes, replacements by hand, copies and loaded states."""
    run = ProtectedRun(settings, seed)
    for call in calls:
        if call == "step":
            run.step()
            continue
        if call == "copy":
            run.net, run.engine, run.keep, run.data = copy.deepcopy((run.net, run.engine, run.keep, run.data))
        elif call == "save and load":
            run.engine.load_state_dict(run.engine.state_dict())
        elif call == "rebind":
            run.engine.rebind(run.net)
        else:
            number, source = data.draw(st.integers(0, 1)), data.draw(st.integers(0, 1))
            size = run.sizes[number]
            if call == "replace":
                run.replace_by_hand(number, data.draw(st.lists(st.integers(0, size - 1), unique=True)))
            elif call == "restart":
                run.restart_by_another(number, data.draw(st.lists(st.integers(0, size - 1), unique=True, min_size=1)))
            elif call in ("none", "all"):
                run.set(source, number, [float(call == "all")] * size)
            else:
                values = data.draw(st.lists(PROTECTIONS, min_size=size, max_size=size))
                run.set(source, number, values, in_place="in place" in call)
        if data.draw(st.booleans()):
            run.check()
    run.step()
    run.check()


@pytest.mark.parametrize("accumulate", [True, False, "one"])
@pytest.mark.parametrize("kernels", [False, True])
def test_protection_of_nothing_changes_no_bit(accumulate, kernels):
    nothing = [Keep(g0=torch.zeros(8), g2=torch.zeros(6, dtype=torch.bool)), Keep()]
    runs = [make_run(mlp(), accumulate=accumulate, kernels=kernels, protect=protect) for protect in (None, nothing, [])]
    states = [(train(*run, range(12)), run[0].state_dict(), run[2].state_dict()) for run in runs]
    assert_same(states[0], states[1])
    assert_same(states[0], states[2])
    assert sum(group.state.replaced for group in runs[0][2].groups) > 2


@pytest.mark.parametrize("accumulate", [True, False, "one"])
def test_protection_of_everything_replaces_nothing(accumulate):
    keep = Keep(g0=torch.ones(8), g2=torch.ones(6, dtype=torch.float64))
    protected = make_run(mlp(), accumulate=accumulate, protect=keep)
    idle = make_run(mlp(), accumulate=accumulate, replacement_rate=0.0)
    train(*protected, range(12))
    train(*idle, range(12))
    assert_same(protected[0].state_dict(), idle[0].state_dict())
    assert [group.state.next_due(0.1) for group in protected[2].groups] == [None, None]
    keep.by_name = {}
    assert any(len(units) for step in train(*protected, range(12, 16)) for units in step)


def test_stochastic_counts_apply_to_the_unprotected_units():
    keep = Keep(g0=torch.tensor([1.0, 0.5, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0]))
    engine = make_run(mlp(4, 8, 2), accumulate=False, replacement_rate=0.6, maturity_threshold=0, protect=keep)[2]
    draws = [[1.0, 0.3], [0.39, 0.41]]  # 2.4 units are due: 3 if the draw is below 0.4
    for uniform, count in zip(draws[1], (3, 2), strict=True):
        engine._uniform = lambda uniform=uniform: uniform
        engine.update([torch.randn(4, 8)])
        units = engine.select()[0].tolist()
        assert len(units) == count
        assert set(units) <= {1, 3, 5, 6}
    assert engine.groups[0].state.num_protected == 4


def ranked(utility: list[float], *protections: list[float]) -> list[int]:
    """The units in the order in which they would be replaced, with given corrected utilities."""
    count = len(utility)
    keep = [Keep(g0=torch.tensor(each)) for each in protections]
    engine = gnt.GnT(mlp(2, count, 1), record=False, maturity_threshold=0, decay_rate=0.0, protect=keep)
    engine.update([torch.rand(3, count)])
    engine.groups[0].state.utility.copy_(torch.tensor(utility))
    return [unit for unit, _ in engine.dry_run(most=count).groups[0].units]


def test_soft_protection_ranks_by_utility_over_one_minus_p():
    assert ranked([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]) == [0, 1, 2]
    assert ranked([1.0, 2.0, 3.0], [0.49, 0.0, 0.0]) == [0, 1, 2]  # 1.96
    assert ranked([1.0, 2.0, 3.0], [0.51, 0.0, 0.0]) == [1, 0, 2]  # 2.04
    assert ranked([1.0, 2.0, 3.0], [0.68, 0.0, 0.0]) == [1, 2, 0]  # 3.125
    assert ranked([1e-20, 2e-20, 3e-20], [0.51, 0.0, 0.0]) == [1, 0, 2]  # whatever the scale
    assert ranked([1.0, 2.0, 3.0], [0.51, 0.0, 1.0]) == [1, 0]
    assert ranked([1.0, 2.0, 3.0], [0.2, 0.9, 0.0], [0.51, 0.0, 0.0]) == [0, 2, 1]  # the maximum counts
    assert ranked([1.0, 2.0, 3.0], [1 - 2**-24, 0.0, 0.0], [0.0, 1.0, 0.0]) == [2, 0]
    assert ranked([-1.0, -2.0, 3.0], [0.0, 0.9, 0.0]) == [0, 1, 2]  # -0.2


class Operations(TorchDispatchMode):
    """Lists the operations that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_unchanged_protection_runs_no_operation_in_a_step_with_nothing_due():
    names = []
    soft = torch.linspace(0, 1, 8)
    for protect in (None, Keep(g0=soft)):
        engine = gnt.GnT(mlp(2, 8, 1), record=False, maturity_threshold=0, replacement_rate=0.01, protect=protect)
        features = [torch.rand(3, 8)]
        engine.step(features)
        with Operations() as operations:
            engine.step(features)
        names.append(operations.names)
    assert names[0] == names[1]
    assert protect.calls == 3  # at construction, and once in each step
    engine.importance.evaluator.parts[0].on_cpu = False
    engine.replace([[0]])  # the first replacement rounds the bounds on the host
    for _ in range(20):  # some with replacements
        with NoSynchronization():
            engine.step(features)
    assert engine.groups[0].state.replaced > 0
    for change in (lambda: soft.mul_(0.5), lambda: protect.by_name.update(g0=torch.rand(8))):
        change()
        with Operations() as operations:
            engine.step(features)
        assert "aten::_unique2" in operations.names  # the eligible units are counted again, once
        with NoSynchronization():
            engine.step(features)


WRONG = {
    "not a tensor": ([1.0] * 8, TypeError, "a tensor or None, got list"),
    "integers": (torch.ones(8, dtype=torch.int64), TypeError, "bools or of floating point numbers, got torch.int64"),
    "shape": (torch.ones(7), ValueError, r"a tensor of shape \(8,\), got \(7,\)"),
    "device": (
        torch.ones(8, device="meta"),
        ValueError,
        "a tensor on cpu, where the group's weights are, got one on meta",
    ),
    "layout": (torch.ones(8).to_sparse(), TypeError, "a dense tensor of all units, got torch.sparse_coo"),
    "nan": (torch.tensor([0.0, torch.nan] * 4), ValueError, r"values in \[0, 1\], got nan for unit 1"),
    "above": (torch.tensor([0.0, 1.0, 1.5, 0.0] * 2), ValueError, r"got 1.5 for unit 2"),
    "below": (torch.full((8,), -0.5), ValueError, r"got -0.5 for unit 0"),
}


@pytest.mark.parametrize(("answer", "error", "message"), WRONG.values(), ids=WRONG)
def test_an_answer_that_cannot_be_used_changes_nothing(answer, error, message):
    message = rf"protected\(\) of Keep, for group '0', must return .*{message}"
    with pytest.raises(error, match=message):
        make_run(mlp(), protect=Keep(g0=answer))
    keep = Keep(g2=torch.ones(6))
    net, optimizer, engine = make_run(mlp(), replacement_rate=1.0, protect=keep)
    train(net, optimizer, engine, range(2))
    keep.by_name = {"g0": answer, "g2": torch.zeros(6)}
    features = [torch.rand(3, 8), torch.rand(3, 6)]
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict(), engine.state_dict()))
    for use in (lambda: engine.step(features), engine.select, lambda: engine.replace([[0], []])):
        with pytest.raises(error, match=message):
            use()
    with pytest.raises(error, match=message):
        engine.rebind(net)
    with pytest.raises(error, match=message):
        engine.protect = [keep]
    assert engine.protect is keep
    assert_same(before, (net.state_dict(), optimizer.state_dict(), engine.state_dict()))
    assert protected_units(engine.groups[1]) == [0, 1, 2, 3, 4, 5]
    keep.by_name = {"g2": torch.ones(6)}
    assert [len(units) for units in engine.step(features)] == [8, 0]


@pytest.mark.parametrize("protect", [3, "hat", Keep, [Keep(), 3], [Keep], torch.ones(8)])
def test_protect_must_have_a_method_protected(protect):
    with pytest.raises(TypeError, match=r"protect must be an object with a method protected\(group\), .* got "):
        gnt.GnT(mlp(), protect=protect)


def test_units_protected_after_their_selection_are_not_replaced():
    for change in ("answer", "setting"):
        keep = Keep()
        engine = make_run(mlp(4, 8, 2), replacement_rate=0.5, maturity_threshold=0, protect=keep)[2]
        engine.update([torch.randn(4, 8)])
        units = engine.select()
        mask = torch.zeros(8).index_fill(0, units[0][:1], 1.0)
        if change == "answer":
            keep.by_name["g0"] = mask
        else:
            engine.protect = Keep(g0=mask)
            engine.dry_run()
        with pytest.raises(ValueError, match=rf"units of group '0' that are protected .*\[{units[0][0]}\]"):
            engine.replace(units)
        engine.replace([units[0][1:]])
        assert engine.groups[0].state.eligible == 4


def test_a_copy_sees_changes_that_were_made_before_it():
    """A copied tensor counts its changes anew."""
    keep = Keep(g0=torch.zeros(8))
    engine = gnt.GnT(mlp(4, 8, 2), record=False, replacement_rate=1.0, maturity_threshold=0, protect=keep)
    keep.by_name["g0"].fill_(1.0)
    copied = copy.deepcopy(engine)
    assert copied.protect is not keep
    assert [len(units) for units in copied.step([torch.rand(3, 8)])] == [0]


def test_protection_can_be_assigned_and_removed():
    net, optimizer, engine = make_run(mlp(), replacement_rate=1.0, maturity_threshold=0)
    engine.protect = keep = [KeepFirstHalf(), Keep(g2=torch.tensor([0.0] * 5 + [1.0]))]
    assert engine.protect == tuple(keep)
    assert [units.sort().values.tolist() for units in train(net, optimizer, engine, range(1))[0]] == [
        [4, 5, 6, 7],
        [3, 4],
    ]
    engine.protect = None
    assert [len(units) for units in train(net, optimizer, engine, range(1))[0]] == [8, 6]


def test_protection_follows_the_dtype_of_the_network_and_units_that_stay():
    keep = Keep(g0=torch.tensor([1.0, 0.5] * 4))
    net, optimizer, engine = make_run(mlp(4, 8, 2), replacement_rate=1.0, maturity_threshold=3, protect=keep)
    train(net, optimizer, engine, range(3))
    net.double()
    train(net, optimizer, engine, range(2))
    assert engine.groups[0].state.unprotected_share.dtype == torch.float64
    assert engine.groups[0].state.replaced == 4
    wide = nn.Linear(4, 10).double()
    wide.weight.data[:8] = net[0].weight.data
    net[0], net[2] = wide, nn.Linear(10, 2).double()
    optimizer.add_param_group({"params": [*net[0].parameters(), *net[2].parameters()]})
    before = engine.groups
    with pytest.raises(ValueError, match=r"a tensor of shape \(10,\), got \(8,\)"):
        engine.rebind(net)
    assert engine.groups is before
    keep.by_name["g0"] = torch.tensor([1.0, 0.0] * 4 + [1.0, 0.0])
    engine.rebind(net)
    assert protected_units(engine.groups[0]) == [0, 2, 4, 6, 8]
    assert engine.groups[0].state.eligible == 0  # 1, 3, 5 and 7 were replaced, 9 is new
    assert [len(units[0]) for units in train(net, optimizer, engine, range(4))] == [0, 0, 4, 1]


def engines_of_all_kinds(keep: Any) -> dict[str, tuple[nn.Module, Any, Any]]:
    """For each class that takes ``protect``: a network, one step of training, and the replaced units after it."""
    settings = {"replacement_rate": 1.0, "maturity_threshold": 0, "protect": keep}
    x, y = torch.randn(8, 4), torch.randn(8, 2)

    def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()

    result: dict[str, tuple[nn.Module, Any, Any]] = {}
    for kind in (gnt.optim.CBPSGD, gnt.optim.CBPAdam, gnt.optim.CBPAdamW):
        net = mlp(4, 8, 2)
        optimizer = kind(net, **settings)
        result[kind.__name__] = net, lambda n=net, o=optimizer: step(n, o), lambda o=optimizer: o.gnt.replaced
    for compiled in (False, True):
        net = mlp(4, 8, 2)
        learner = gnt.ContinualBackprop(net, compile=compiled, **settings)
        result[f"learner, {compiled=}"] = net, lambda e=learner: e.learn(x, y), lambda e=learner: e.gnt.replaced
    net = mlp(4, 8, 2)
    net.insert(2, gnt.CBPLinear(net[0], net[2], **settings))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    result["CBPLinear"] = net, lambda n=net, o=optimizer: step(n, o), lambda n=net: n[2].engine.replaced
    net = mlp(4, 8, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    redo = gnt.ReDo(net, optimizer, tau=100.0, period=1, protect=keep)
    result["ReDo"] = net, lambda n=net, o=optimizer, r=redo: (step(n, o), r.step()), lambda r=redo: r.replaced
    return result


def test_every_class_with_an_engine_passes_protect_on(monkeypatch):
    run_graphs_uncompiled(monkeypatch)
    keep = KeepFirstHalf()
    for name, (net, step, replaced) in engines_of_all_kinds(keep).items():
        keep.masks["0"] = torch.arange(8) < 4
        for kept in (range(4), range(4), range(4, 8)):
            if kept.start:
                keep.masks["0"].logical_not_()
            calls = keep.calls
            step()
            assert sorted(replaced()[0].tolist()) == [unit for unit in range(8) if unit not in kept], name
            assert keep.calls == calls + 1 + (name == "ReDo"), name  # ReDo also where it replaces
        before = copy.deepcopy(net.state_dict())
        keep.masks["0"] = torch.ones(7)
        with pytest.raises(ValueError, match=r"a tensor of shape \(8,\), got \(7,\)"):
            step()
        if "compiled=True" in name:
            assert_same(net.state_dict(), before)
    engine = gnt.algorithm_1(mlp(4, 8, 2), replacement_rate=1.0, maturity_threshold=0, protect=KeepFirstHalf())
    assert engine.groups[0].state.num_protected == 4


def test_an_ensemble_refuses_protect():
    message = "protect must be None for an ensemble, got .*: protected units would differ between members"
    for rate in (0.1, 0.0):
        with pytest.raises(TypeError, match=message):
            gnt.Ensemble(mlp, [0, 1], replacement_rate=rate, protect=KeepFirstHalf())
    ensemble = gnt.Ensemble(mlp, [0, 1], protect=None)
    with pytest.raises(TypeError, match=message):
        ensemble.gnt.protect = KeepFirstHalf()
    assert ensemble.gnt.protect is None


def test_redo_takes_p_off_its_threshold_and_leaves_protected_units():
    net = mlp(4, 8, 2)
    keep = Keep(g0=torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    redo = gnt.ReDo(net, tau=0.5, period=1, protect=keep)
    features = torch.ones(1, 8)
    features[0, :3] = torch.tensor([0.0, 0.3, 0.3])  # tau times the mean is 0.35
    redo.step([features])
    assert redo.replaced[0].tolist() == [2]
    assert redo.report().groups[0][2:] == (2, 1)  # dormant units are 0 and 2
    redo.protect = None
    features[0, 1] = 0.1
    redo.step([features])
    assert redo.replaced[0].tolist() == [0, 1, 2]


def test_reports_know_of_protected_units():
    keep = Keep(g0=torch.tensor([1.0, 1.0, 0.5, 0.0]))
    engine = gnt.GnT(mlp(1, 4, 1), record=False, maturity_threshold=0, replacement_rate=0.01, protect=keep)
    features = [torch.zeros(2, 4)]
    for _ in range(2):
        engine.step(features)
    report = engine.report()
    (row,) = report.groups
    assert (row.units, row.protected, row.eligible, row.next_due, row.dead) == (4, 2, 2, 48, 4)
    head, line = (text.split() for text in str(report).splitlines()[1:3])
    assert (head[-1], line[-1]) == ("protected", "2")
    plan = engine.dry_run().groups[0]
    assert (sorted(unit for unit, _ in plan.units), plan.protected) == ([2, 3], 2)
    assert "; 2 protected" in str(engine.dry_run())
    keep.by_name["g0"] = torch.ones(4)
    engine.step(features)
    assert "none is eligible; 4 protected" in str(engine.dry_run())
    engine.protect = None
    assert "protected" not in str(engine.report()) + str(engine.dry_run())


IDLE = {
    "all": ([1.0] * 4, "gnt has replaced nothing in 10000 updates; all units are protected (protect=)"),
    "some": ([1.0, 1.0, 1.0, 0.0], "is low for groups of this size with 3 of 4 units protected"),
}


@pytest.mark.parametrize(("protection", "message"), IDLE.values(), ids=IDLE)
def test_the_idle_warning_knows_of_protected_units(protection, message):
    keep = Keep(g0=torch.tensor(protection))
    engine = gnt.GnT(mlp(1, 4, 1), record=False, maturity_threshold=5, replacement_rate=1e-9, protect=keep)
    features = [torch.rand(2, 4) + 0.1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(100):
            engine.step(features)
        if "all" in message:
            assert not caught  # not that the rate is too low
            engine.updates = engine.groups[0].state.updates = 9_990
            engine.next_idle_check = 10_000
        else:
            assert "maturity_threshold=5 with 3 of 4 units protected the first unit is due after" in str(
                caught[0].message
            )
            engine.updates, engine.groups[0].state.updates, engine.next_idle_check = 9_990, 9_990, 10_000
        for _ in range(10):
            engine.step(features)
    assert message in str(caught[-1].message)
