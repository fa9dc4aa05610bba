"""`FGAdaHAT`: importances and rates against literal formulas, special cases, resuming, and what is refused."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gnt
from gnt.importance import ATTRIBUTIONS, attribute
from gnt.protection import EarlierTasks
from gnt.protection._fine_grained import FineGrained
from tests.helpers.small_runs import assert_same, mlp

STEPS = 3


def data(task: int, step: int, n: int = 5) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(100 * task + step)
    return torch.randn(n, 4, generator=draws, dtype=torch.float64), torch.randint(3, (n,), generator=draws)


def network() -> nn.Sequential:
    return mlp(4, 6, 5, 3).double()


def masked(net: nn.Module | None = None, kind: Any = gnt.FGAdaHAT, **settings: Any) -> Any:
    net = network() if net is None else net
    settings = {"alpha": 0.1, "generator": torch.Generator().manual_seed(7), **settings}
    return kind(net, gnt.walk(net), **settings)


def step_of(hat: Any, optimizer: torch.optim.Optimizer, task: int, step: int) -> None:
    x, y = data(task, step)
    if isinstance(hat, gnt.FGAdaHAT):
        hat.observe(x, y)
    optimizer.zero_grad()
    (F.cross_entropy(hat.model(x), y) + hat.penalty()).backward()
    optimizer.step()


def learn(hat: Any, optimizer: torch.optim.Optimizer, tasks: int, *, first: int = 0) -> None:
    for task in range(first, first + tasks):
        with hat.learning(task, optimizer, steps_per_epoch=STEPS):
            for step in range(STEPS):
                step_of(hat, optimizer, task, step)


def sgd(hat: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(hat.model.parameters(), lr=0.1, momentum=0.9)


def scaled(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(v - low) / (high - low) if high > low else 0.0 for v in values]


def by_hand(hat: Any, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What the consumers of the two groups read, with the gates of the step, and the gradients of the three weights."""
    gates = hat.layout.by_group(hat.gates.detach())
    weights = [hat.model[number].weight.detach().clone().requires_grad_() for number in (0, 2, 4)]
    h, read = x, []
    for weight, number in zip(weights[:2], (0, 2), strict=True):
        h = F.linear(h, weight, hat.model[number].bias).relu() * gates[str(number)]
        read.append(h)
    output = F.linear(h, weights[2], hat.model[4].bias)
    return [each.detach() for each in read], list(torch.autograd.grad(F.cross_entropy(output, y), weights))


def linear(hat: Any, number: int, x: Tensor) -> Tensor:
    """A layer without its hooks."""
    return F.linear(x, hat.model[number].weight, hat.model[number].bias)


def literal_values(measure: str, h: Tensor, w_in: Tensor, w_out: Tensor, g_in: Tensor, g_out: Tensor, i: int) -> float:
    """The measure of unit i, weight by weight, with sums where gnt has means."""
    active = sum(abs(float(each)) for each in h[:, i]) / len(h)
    return {
        "contribution": active * sum(abs(float(w)) for w in w_out[:, i]),
        "incoming_contribution": active * sum(abs(float(w)) for w in w_in[i]),
        "activation": active,
        "incoming_gradient": sum(abs(float(g)) for g in g_in[i]),
        "outgoing_fisher": sum(float(g) ** 2 for g in g_out[:, i]),
        "incoming_fisher_activation": active * sum(float(g) ** 2 for g in g_in[i]),
    }[measure]


@pytest.mark.parametrize("form", ["update", "gradient"])
@pytest.mark.parametrize(
    "measure",
    ["contribution", "incoming_contribution", "activation", "incoming_gradient", "outgoing_fisher",
     "incoming_fisher_activation"],
)  # fmt: skip
def test_importance_of_a_task_is_the_mean_of_scaled_values_times_gates(measure, form):
    """In the second task, whose gradients are multiplied by rates in the gradient form: those of the loss count."""
    hat = masked(importance=measure, apply=form, base_importance=0.25, filter_unused=True, alpha=1e-3)
    optimizer = sgd(hat)
    learn(hat, optimizer, 1)
    hat.begin(1, optimizer, steps_per_epoch=STEPS)
    assert min(float(rate.min()) for rate in hat._conditioning.current()) < 0.1
    weights = [hat.model[number].weight.detach() for number in (0, 2, 4)]
    total = [[0.0] * 6, [0.0] * 5]
    for step in range(STEPS):
        x, y = data(1, step)
        read, gradients = by_hand(hat, x, y)
        gates = [part.tolist() for part in hat.layout.by_group(hat.gates.detach()).values()]
        step_of(hat, optimizer, 1, step)
        for layer, values in enumerate(total):
            raw = [
                literal_values(
                    measure, read[layer], weights[layer], weights[layer + 1], gradients[layer], gradients[layer + 1], i
                )
                for i in range(len(values))
            ]
            for i, v in enumerate(scaled(raw)):
                values[i] += v * gates[layer][i] / STEPS
    hat.end()
    expected = (torch.tensor([*total[0], *total[1]], dtype=torch.float64) + 0.25) * hat.masks_by_task[-1]
    torch.testing.assert_close(hat.importances[1], expected, rtol=1e-9, atol=1e-12)


def literal_rate(hat: Any, i: float | None, j: float | None, m: Any, c: Any, r: float, s: dict[str, Any]) -> float:
    """The rate of one weight from the importances of its two sides; None: a side that belongs to no group."""

    def join(pair: tuple[Any, Any], kind: str, none: float) -> float:
        own = [each for each in pair if each is not None]
        if len(own) < 2:
            return own[0] if own else none
        return {"min": min(own), "max": max(own), "mean": sum(own) / 2}[kind]

    tasks = len(hat.tasks)
    importance = join((i, j), s["aggregation"], float(hat._unit_importance().max()))
    if s["filter_cumulative"]:
        importance *= join(c, "min", 1.0)
    k = {
        "linear_sparsity": tasks + 1 + s["base_linear"],
        "sparsity": 1.0,
        "summative_mask_sparsity": join(m, "min", tasks) + s["base_linear"],
    }[s["schedule"]]
    return s["alpha"] / ((r + s["base_sparsity"]) * k * importance + s["alpha"])


@pytest.mark.parametrize("filter_cumulative", [False, True])
@pytest.mark.parametrize("aggregation", ["min", "max", "mean"])
@pytest.mark.parametrize("schedule", ["linear_sparsity", "sparsity", "summative_mask_sparsity"])
def test_rates_equal_the_formula_for_each_weight(schedule, aggregation, filter_cumulative):
    s = {
        "schedule": schedule, "aggregation": aggregation, "filter_cumulative": filter_cumulative, "alpha": 0.3,
        "base_sparsity": 0.2, "base_linear": 2.0,
    }  # fmt: skip
    hat = masked(summing="quadratic_decrease", **s)
    optimizer = sgd(hat)
    learn(hat, optimizer, 2)
    earlier = (4 * hat.importances[0] + hat.importances[1]).split([6, 5])
    torch.testing.assert_close(hat._unit_importance(), torch.cat(earlier))
    hat.begin(2, optimizer, steps_per_epoch=STEPS)
    rates = {
        each.name: rate for each, rate in zip(hat._conditioning.parameters, hat._conditioning.current(), strict=True)
    }
    free = (1 - hat.cumulative).split([6, 5])
    gates = hat.gates.detach().split([6, 5])
    sparsity = [float((a * f).sum() / f.sum()) if f.any() else 0.0 for a, f in zip(gates, free, strict=True)]
    everything = torch.cat(free)
    sparsity.append(float((hat.gates.detach() * everything).sum() / everything.sum()) if everything.any() else 0.0)
    sides = [hat.counts.split([6, 5]), hat.cumulative.split([6, 5]), earlier]

    def at(layer: int, unit: int) -> list[Any]:
        return [float(values[layer][unit]) if 0 <= layer < 2 else None for values in sides]

    for layer, number in enumerate((0, 2, 4)):
        weight, bias = hat.model[number].weight, hat.model[number].bias
        for row in range(len(weight)):
            (m_i, c_i, i), r = at(layer, row), sparsity[layer]
            expected = literal_rate(hat, i, None, (m_i, None), (c_i, None), r, s)
            found = rates[f"{number}.bias"].expand_as(bias)[row]
            assert float(found) == pytest.approx(expected, rel=1e-9)
            for column in range(weight.shape[1]):
                m_j, c_j, j = at(layer - 1, column)
                expected = literal_rate(hat, i, j, (m_i, m_j), (c_i, c_j), r, s)
                found = rates[f"{number}.weight"].expand_as(weight)[row, column]
                assert float(found) == pytest.approx(expected, rel=1e-9)


class ByCounts(gnt.FGAdaHAT):
    """FG-AdaHAT whose importance is the number of tasks that use a unit."""

    def _unit_importance(self) -> Tensor:
        return self.counts


@pytest.mark.parametrize(("form", "alpha"), [("update", 0.1), ("gradient", 1e-3)])
def test_adahat_is_the_special_case_of_counts_as_importance(form, alpha):
    found = []
    for kind, own in (
        (gnt.AdaHAT, {"epsilon": 0.2}),
        (ByCounts, {"schedule": "sparsity", "base_sparsity": 0.2, "weigh_by_gate": False}),
    ):
        hat = masked(kind=kind, apply=form, alpha=alpha, **own)
        learn(hat, sgd(hat), 3)
        assert hat.counts.max() == 3  # of the weights of no group, too
        found.append((dict(hat.model.state_dict()), hat.counts))
    assert_same(*found)


@pytest.mark.parametrize("importance", ["contribution", "random", "deeplift", "gradient_shap"])
def test_the_first_task_is_that_of_hat_whatever_is_measured(importance):
    """Attributions between the steps leave dropout, running statistics and generators alone."""
    found = []
    for kind, own in ((gnt.HAT, {"sparsity": 0.1}), (gnt.FGAdaHAT, {"alpha": 1.0, "importance": importance})):
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)
        ).double()
        hat = kind(net, gnt.walk(net), **own)
        if kind is gnt.FGAdaHAT:
            hat.every = 1
        learn(hat, sgd(hat), 1)
        found.append((dict(net.state_dict()), hat.embedding.detach(), torch.get_rng_state()))
    assert_same(*found)


@pytest.mark.parametrize("importance", ["adaptable_contribution", "outgoing_fisher", "gradient_shap"])
def test_a_resumed_run_equals_the_uninterrupted_one(importance):
    """Saved in the middle of the second task, and loaded with weights_only=True."""
    settings = {"importance": importance, "every": 1, "apply": "gradient"}

    def begun() -> tuple[Any, torch.optim.Optimizer]:
        hat = masked(**settings)
        optimizer = sgd(hat)
        learn(hat, optimizer, 1)
        hat.begin(1, optimizer, steps_per_epoch=STEPS)
        step_of(hat, optimizer, 1, 0)
        return hat, optimizer

    def finished(hat: Any, optimizer: torch.optim.Optimizer) -> tuple[Any, ...]:
        for step in range(1, STEPS):
            step_of(hat, optimizer, 1, step)
        hat.end()
        learn(hat, optimizer, 1, first=2)
        return dict(hat.model.state_dict()), hat.importances, hat.embedding.detach()

    hat, optimizer = begun()
    kept = io.BytesIO()
    torch.save([hat.model.state_dict(), hat.state_dict(), optimizer.state_dict()], kept)
    kept.seek(0)
    expected = finished(hat, optimizer)
    net, state, optimizer_state = torch.load(kept, weights_only=True)
    other = masked(**settings)
    other.model.load_state_dict(net)
    other.load_state_dict(state)
    resumed = sgd(other)
    other.resume(resumed)
    resumed.load_state_dict(optimizer_state)
    assert_same(finished(other, resumed), expected)
    wrong = masked(importance="weight")
    with pytest.raises(ValueError, match=f"state_dict is of importance '?{importance}'?, this FGAdaHAT has 'weight'"):
        wrong.load_state_dict(state)


def test_kernels_give_the_same_importance():
    found = []
    for kernels in (False, True):
        hat = masked(importance="adaptable_contribution", kernels=kernels)
        learn(hat, sgd(hat), 1)
        found.append(hat.importances)
    torch.testing.assert_close(*found)


def test_copies_go_on_alike():
    hat = masked(importance="adaptable_contribution")
    optimizer = sgd(hat)
    learn(hat, optimizer, 1)
    hat.begin(1, optimizer, steps_per_epoch=STEPS)
    step_of(hat, optimizer, 1, 0)
    other, other_optimizer = copy.deepcopy((hat, optimizer))
    for each, its in ((hat, optimizer), (other, other_optimizer)):
        for step in range(1, STEPS):
            step_of(each, its, 1, step)
        each.end()
    assert_same(hat.importances, other.importances)
    assert_same(dict(hat.model.state_dict()), dict(other.model.state_dict()))


def test_an_attribution_is_that_of_the_gated_network_in_measured_steps():
    """For the units of the last layer: mean |h a w_y| over the samples of all micro-batches, in every second step."""
    hat = masked(importance="ablation", every=2, weigh_by_gate=False, base_importance=0.0)
    optimizer = sgd(hat)
    hat.begin("seven", optimizer, steps_per_epoch=4)
    expected = []
    for step in range(4):
        gates = hat.gates.detach()
        optimizer.zero_grad()
        for part in (0, 1):
            x, y = data(part, step, 3 + 4 * part)
            hat.observe(x, y)
            (F.cross_entropy(hat.model(x), y) + hat.penalty()).backward()
        optimizer.step()
        if step % 2 == 0:
            x, y = (torch.cat(parts) for parts in zip(data(0, step, 3), data(1, step, 7), strict=True))
            a, b = gates.split([6, 5])
            h = linear(hat, 2, linear(hat, 0, x).relu() * a).relu() * b
            expected.append(scaled((h * hat.model[4].weight[y]).abs().mean(0).tolist()))
    assert hat._measured == [2, 2]
    hat.end()
    wanted = torch.tensor(expected, dtype=torch.float64).mean(0)
    torch.testing.assert_close(hat.importances[0, 6:], wanted)


@pytest.mark.parametrize("importance", ATTRIBUTIONS)
def test_each_attribution_trains_tasks(importance):
    """The published code raises an error in the first step, and at the end of the first task."""
    given = {"baselines": data(9, 9)[0]} if importance == "deeplift_shap" else {}
    if importance in ("conductance", "integrated_gradients"):
        given["n_steps"] = 3
    hat = masked(importance=importance, every=2, filter_unused=True, **given)
    learn(hat, sgd(hat), 2, first=5)
    assert hat.importances.shape == (2, 11)
    assert hat.importances.any(1).all()
    assert not hat.importances.requires_grad
    assert not hat.importance_sum.requires_grad


def test_attribution_of_the_loss():
    hat = masked(importance="internal_influence", of="loss", every=1, weigh_by_gate=False)
    optimizer = sgd(hat)
    hat.begin(0, optimizer, steps_per_epoch=1)  # s = s_max: gates are 0 or 1, as in evaluation
    step_of(hat, optimizer, 0, 0)
    x, y = data(0, 0)
    hat.embedding.data.copy_(torch.where(hat.gates.detach() > 0.5, 1.0, -1.0))
    found = attribute(
        hat.model,
        hat.groups,
        x,
        lambda output: F.cross_entropy(output, y, reduction="none"),
        method="internal_influence",
    )
    wanted = [value for each in found for value in scaled(each.tolist())]
    torch.testing.assert_close(hat.importance_sum, torch.tensor(wanted, dtype=torch.float64), rtol=1e-5, atol=1e-7)


def test_a_step_without_observation_is_refused_before_anything_changes():
    hat = masked(importance="deeplift")
    optimizer = sgd(hat)
    hat.begin(0, optimizer, steps_per_epoch=STEPS)
    x, y = data(0, 0)
    (F.cross_entropy(hat.model(x), y) + hat.penalty()).backward()
    before = copy.deepcopy(dict(hat.model.state_dict()))
    with pytest.raises(
        RuntimeError, match=r"'deeplift' needs inputs and targets of this step: call hat.observe\(x, y\)"
    ):
        optimizer.step()
    assert_same(dict(hat.model.state_dict()), before)
    hat.observe(x, y)
    optimizer.step()
    (F.cross_entropy(hat.model(x), y) + hat.penalty()).backward()
    optimizer.step()  # not measured: every 20th step is


def test_a_step_whose_batches_are_empty_does_not_count():
    hat = masked(importance="deeplift", every=1)
    optimizer = sgd(hat)
    hat.begin(0, optimizer, steps_per_epoch=STEPS)
    x, y = data(0, 0)
    for size in (len(x), 0):
        hat.observe(x[:size], y[:size])
        (F.cross_entropy(hat.model(x), y) + hat.penalty()).backward()
        before = hat.importance_sum.clone()
        optimizer.step()
        assert bool((hat.importance_sum == before).all()) is (size == 0)


class Branches(nn.Module):
    """Two hidden layers, of which a forward runs one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.left_out = nn.Linear(4, 5), nn.Linear(5, 3)
        self.right, self.right_out = nn.Linear(4, 5), nn.Linear(5, 3)
        self.side = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.right_out(self.right(x).relu()) if self.side else self.left_out(self.left(x).relu())


def test_a_step_counts_for_the_groups_that_took_part():
    net = Branches().double()
    branches = [net.left, nn.ReLU(), net.left_out], [net.right, nn.ReLU(), net.right_out]
    hat = gnt.FGAdaHAT(net, [*gnt.walk(branches[0]), *gnt.walk(branches[1])], alpha=0.1, base_importance=0.0)
    optimizer = sgd(hat)
    hat.begin(0, optimizer, steps_per_epoch=4)
    before = hat.importance_sum.clone()
    for step, side in enumerate((0, 1, 0, 0)):
        net.side = side
        step_of(hat, optimizer, 0, step)
        changed = (hat.importance_sum != before).split([5, 5])
        assert [bool(part.any()) for part in changed] == [side == 0, side == 1]
        before = hat.importance_sum.clone()
    hat.end()
    torch.testing.assert_close(hat.importances[0], before / torch.tensor([3.0] * 5 + [1.0] * 5).double())


def test_learners_pass_their_batches():
    net = mlp(4, 6, 3)
    hat = gnt.FGAdaHAT(net, gnt.walk(net), alpha=0.1, importance="deeplift", every=1)
    learner = gnt.Backprop(net, loss="nll", methods=[hat])
    hat.begin(0, learner.opt, steps_per_epoch=2)
    for step in range(2):
        x, y = data(0, step)
        learner.learn(x.float(), y)
    assert hat._measured == [2]


def test_replaced_units_start_anew():
    hat = masked(importance="contribution")
    optimizer = sgd(hat)
    hat.begin(0, optimizer, steps_per_epoch=STEPS)
    engine = gnt.GnT(hat.model, optimizer, follow=[hat], replacement_rate=0.0)
    for step in range(2):
        step_of(hat, optimizer, 0, step)
    hat.importance_sum.fill_(1.0)
    engine.replace([torch.tensor([1, 4]), torch.tensor([0])])
    assert hat.importance_sum.tolist() == [1, 0, 1, 1, 0, 1, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.8])
def test_units_above_a_quantile_of_importance_are_never_replaced_and_others_are(quantile):
    hat = masked(protect_quantile=quantile, idle=True)
    optimizer = sgd(hat)
    engine = gnt.GnT(hat.model, optimizer, protect=hat, replacement_rate=0.0, maturity_threshold=0).attach()
    assert not any(hat.protected(group).any() for group in engine.groups)  # no task has ended
    learn(hat, optimizer, 2)
    engine.replacement_rate = 1.0
    hat.begin(2, optimizer, steps_per_epoch=STEPS)
    step_of(hat, optimizer, 2, 0)
    for group, importance in zip(engine.groups, hat.importance_by_group().values(), strict=True):
        order = importance.tolist()
        limit = sorted(order)[int(quantile * (len(order) - 1))]  # the quantile is between this one and the next
        kept = [unit for unit, each in enumerate(order) if each > limit]
        assert hat.protected(group) is hat.protected(group)
        assert hat.protected(group).nonzero().squeeze(1).tolist() == kept
        assert group.state.age.nonzero().squeeze(1).tolist() == kept


def test_values_that_are_not_finite_are_refused_with_the_group():
    name = "test_nonfinite"
    gnt.register_utility(name, lambda s: torch.full_like(s.magnitude[:, 0], float("inf" if s.num_units == 5 else "1")))
    try:
        hat = masked(importance=name)
        optimizer = sgd(hat)
        hat.begin(0, optimizer, steps_per_epoch=STEPS)
        with pytest.raises(FloatingPointError, match="group '2'"):
            step_of(hat, optimizer, 0, 0)
        assert not hat.importance_sum.any()
    finally:
        del gnt.importance.MEASURES[name]


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"alpha": 0.0}, ValueError, "alpha must be a finite number > 0"),
        ({"importance": "contributoin"}, ValueError, "importance must be one of .* did you mean 'contribution'"),
        ({"summing": "log_decrease"}, ValueError, "needs base"),
        ({"step": 1.0}, ValueError, "step must not be given for summing='add_all'"),
        ({"schedule": "linear"}, ValueError, "schedule must be one of 'linear_sparsity'"),
        ({"aggregation": "sum"}, ValueError, "aggregation must be one of 'min', 'max', 'mean', got 'sum'"),
        ({"base_importance": -1e-9}, ValueError, "base_importance must be a finite number >= 0"),
        ({"base_sparsity": 0.0}, ValueError, "base_sparsity must be a finite number > 0"),
        ({"base_linear": -1.0}, ValueError, "base_linear must be a finite number >= 0"),
        ({"filter_unused": 1}, TypeError, "filter_unused must be True or False"),
        ({"every": 0}, ValueError, "every must be an integer >= 1"),
        ({"of": "output"}, ValueError, "of must be one of 'target', 'loss', got 'output'"),
        ({"of": "loss"}, ValueError, "of='loss' is for attributions, and importance='contribution' is a measure"),
        ({"importance": "lrp", "of": "loss"}, ValueError, "of must be 'target' for importance='lrp'"),
        ({"n_steps": 5}, ValueError, "n_steps must not be given for importance='contribution', a measure"),
        ({"importance": "gradcam", "n_steps": 5}, ValueError, "n_steps must be None for 'gradcam'"),
        ({"importance": "deeplift_shap"}, ValueError, "'deeplift_shap' needs baselines"),
        ({"importance": "ablation", "chunk": 0}, ValueError, "chunk must be an integer >= 1"),
        (
            {"protection": gnt.protection.Hard()},
            TypeError,
            "FGAdaHAT takes alpha, importance, .* in place of protection",
        ),
        ({"protect_quantile": 1.0}, ValueError, r"protect_quantile must be a number in \[0, 1\) or None, got 1.0"),
        ({"protect_quantile": 0.5, "protect_above": 1}, ValueError, "protect_above must be 0 with protect_quantile"),
        ({"s_max": 0.5}, ValueError, "s_max must be a finite number >= 1"),
    ],
)
def test_wrong_settings_are_refused_and_leave_the_network_alone(settings, kind, message):
    net = network()
    with pytest.raises(kind, match=message):
        masked(net, **settings)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in net)


def test_groups_that_cannot_be_measured_leave_no_hooks():
    net = network()
    groups = gnt.walk(net)
    net[2].weight = torch.nn.Parameter(net[2].weight.detach().to(torch.complex64))
    with pytest.raises(ValueError, match="Linear is complex"):
        gnt.FGAdaHAT(net, groups, alpha=0.1)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in net)


def test_the_seed_of_torch_determines_random_importance():
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        net = network()
        torch.manual_seed(seed)
        hat = masked(net, importance="random")
        learn(hat, sgd(hat), 1)
        found.append(hat.importances)
    assert found[0].equal(found[1])
    assert not found[0].equal(found[2])


@settings(max_examples=20)
@given(
    importance=st.lists(st.floats(0, 2.0**127, width=32), min_size=2, max_size=5),
    alpha=st.floats(1e-7, 10.0),
    sparsity=st.floats(0, 1),
)
def test_rates_are_in_0_to_1_and_fall_with_importance_and_free_units(importance, alpha, sparsity):
    rates = FineGrained(alpha)
    units = torch.tensor(sorted(importance))
    none = torch.zeros_like(units)
    earlier = EarlierTasks(none, none, 2, [True], units)

    class Coverage:
        """Parameters of which each entry belongs to one unit."""

        def measure(self, values: Tensor, *_: Any) -> list[Tensor]:
            return [values]

    (measure,) = rates.measures(earlier, Coverage())
    found = [rates.rate(measure, rates.factors(torch.tensor([r])).squeeze()) for r in (sparsity, 1.0)]
    assert bool(((found[0] > 0) & (found[0] <= 1)).all())
    assert bool((found[0].diff() <= 0).all())
    assert bool((found[1] <= found[0]).all())
    (weaker,) = FineGrained(2 * alpha).measures(earlier, Coverage())
    assert bool(
        (
            FineGrained(2 * alpha).rate(weaker, FineGrained(2 * alpha).factors(torch.tensor([sparsity]))) >= found[0]
        ).all()
    )


def test_base_linear_0_and_unknown_settings():
    masked(base_linear=0.0)
    with pytest.raises(TypeError, match="bogus"):
        masked(bogus=1)


def test_hooks_are_gone_after_close():
    hat = masked()
    learn(hat, sgd(hat), 1)
    hat.close()
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in hat.model)
