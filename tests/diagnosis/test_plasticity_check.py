"""The plasticity check tells worn networks from new ones, equals a plain loop, and changes nothing."""

from __future__ import annotations

import contextlib
import copy
import random
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gnt
from gnt.diagnosis._batches import read_batches
from gnt.diagnosis._statistics import estimate, t_quantile
from gnt.diagnosis._verdict import find_gaps, judge, sentence
from tests.helpers.small_runs import assert_same

CLASSES, WIDTH = 4, 32


def adam(params):
    return torch.optim.Adam(params, lr=0.01)


def task(n=320, seed=1):
    """Classes that a linear layer nearly separates."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=generator)
    return x, (x @ torch.randn(8, CLASSES, generator=generator)).argmax(1)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))


def without_units(share, seed=0):
    net = network(seed)
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.bias[: int(share * WIDTH)] = -100.0
    return net


def check(net, make=adam, data=None, loss="cross_entropy", **settings):
    data = task() if data is None else data
    return gnt.plasticity_check(net, make, data, loss, **{"steps": 40, "seeds": 3, "progress": False, **settings})


@pytest.fixture(scope="module")
def severe():
    return check(without_units(0.97))


def test_a_new_network_has_none_and_one_with_few_units_left_a_severe_loss(severe):
    new = check(network(5))
    assert (new.verdict, new.advice) == ("none", ())
    assert severe.verdict == "severe"
    assert severe.gaps.lost.low > 0.5
    assert severe.worst[0].name in ("0", "2")
    assert "dead" in severe.worst[0].signs
    assert severe.advice[0].what.startswith("continual backpropagation")
    assert severe.present[0].dead_units > 0.9 > 0.3 > severe.fresh[0].dead_units
    assert severe.present[2].units is severe.present[2].dead_units is None


@pytest.mark.parametrize("fresh", ["data", "labels", "permutation"])
def test_curves_equal_those_of_plain_loops(fresh):
    x, y = task(64)
    batches = [(x[:32], y[:32]), (x[32:], y[32:])]
    net, steps = without_units(0.5), 6
    found = check(net, lambda p: torch.optim.SGD(p, 0.1), batches, steps=steps, seeds=2, batches=2, fresh=fresh)
    for seed in range(2):
        torch.manual_seed(seed)
        new = nn.Sequential(*(type(m)(m.in_features, m.out_features) if isinstance(m, nn.Linear) else m for m in net))
        headed = copy.deepcopy(net)
        headed[4].load_state_dict(new[4].state_dict())
        order = torch.Generator().manual_seed(seed)
        if fresh == "labels":
            target = y[torch.randperm(64, generator=order)]
            learned = [(x[:32], target[:32]), (x[32:], target[32:])]
        elif fresh == "permutation":
            moved = torch.randperm(8, generator=order)
            learned = [(x[:32][:, moved], y[:32]), (x[32:][:, moved], y[32:])]
        else:
            learned = batches
        for name, start in (("present", net), ("fresh", new), ("fresh head", headed)):
            own, passes = copy.deepcopy(start), torch.Generator().manual_seed(seed)
            optimizer = torch.optim.SGD(own.parameters(), 0.1)
            errors, losses = [], []
            while len(errors) < steps:
                for number in torch.randperm(2, generator=passes).tolist():
                    a, b = learned[number]
                    output = own(a)
                    loss = F.cross_entropy(output, b)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    errors.append(float((output.argmax(1) != b).double().mean()))
                    losses.append(loss.item())
            assert found.curves[name][seed].tolist() == errors
            assert found.losses[name][seed].tolist() == losses


def test_gaps_follow_from_the_curves():
    """Values above the start, 1, count as 1 in the shares: the capped differences of means are 0.3 and 0.4."""
    fresh = torch.tensor([[1.0, 0.5, 0.25, 0.25], [1.0, 0.2, 0.2, 0.2]], dtype=torch.float64)
    present = torch.tensor([[3.0, 1.0, 0.6, 0.6], [1.0, 0.8, 0.8, 0.6]], dtype=torch.float64)
    gaps = find_gaps({"fresh": fresh, "present": present, "fresh head": fresh})
    assert (gaps.start, gaps.lost_fresh_head.mean) == (1.0, 0.0)
    assert (gaps.fresh, gaps.present, gaps.gap.mean) == pytest.approx((0.45, 1.05, 0.6))
    assert gaps.lost.mean == pytest.approx(0.35 / 0.55)
    assert gaps.lost.high == pytest.approx((0.35 + 12.706204736 * np.std([0.3, 0.4], ddof=1) / np.sqrt(2)) / 0.55)
    assert gaps.gap_at_end.mean == pytest.approx(0.375)
    assert gaps.lost_at_end.mean == pytest.approx(0.375 / (1.0 - 0.225))
    assert gaps.progress.mean == pytest.approx(0.775)


@pytest.mark.parametrize(
    ("present", "head", "verdict", "words"),
    [
        ([0.2, 0.2], [0.2, 0.2], "none", "No loss"),
        ([0.05, 0.05], [0.05, 0.05], "none", "learns faster"),
        ([0.4, 0.4], [0.4, 0.4], "some", "Some loss"),
        ([0.4, 0.4], [0.2, 0.2], "some", "output layer"),
        ([0.9, 0.9], [0.2, 0.2], "some", "output layer"),
        ([0.9, 0.2], [0.9, 0.2], "some", "caught up"),
        ([0.9, 0.9], [0.9, 0.9], "severe", "Severe loss"),
        ([float("nan"), 0.9], [0.9, 0.9], "severe", "Severe loss"),
    ],
)
def test_the_verdict_depends_on_all_steps_the_end_and_the_fresh_head(present, head, verdict, words):
    def curve(first, last):
        return torch.tensor([[1.0] + [first] * 5 + [last] * 2] * 3, dtype=torch.float64) + torch.tensor(
            [[0], [1e-3], [0]]
        )

    gaps = find_gaps({"present": curve(*present), "fresh": curve(0.2, 0.2), "fresh head": curve(*head)})
    assert judge(gaps) == verdict
    assert words in sentence(verdict, gaps, 8)


def test_the_verdict_is_unclear_if_nothing_is_learned_or_seeds_disagree():
    still = check(network(), lambda p: torch.optim.SGD(p, 0.0), steps=10, seeds=2)
    assert still.verdict == "unclear"
    assert "does not learn this in 10 steps either" in still.sentence
    wide = torch.tensor([[1.0, 0.2, 0.2], [1.0, 0.9, 0.9]], dtype=torch.float64)
    gaps = find_gaps({"present": wide, "fresh": torch.tensor([[1.0, 0.2, 0.2]] * 2), "fresh head": wide})
    assert judge(gaps) == "unclear"
    assert "more seeds" in sentence("unclear", gaps, 3)


@pytest.mark.parametrize(
    ("present", "words"),
    [
        ([0.1, 0.4], "the present network is ahead of a fresh one by 7% of its progress (95% interval -265% to 279%)."),
        ([0.3, 0.2999], "the present network misses 0% of a fresh network's progress (95% interval 0% to 0%)."),
    ],
)
def test_a_network_that_is_ahead_is_not_said_to_miss_progress(present, words):
    own = torch.tensor([[1.0, *[each] * 7] for each in present], dtype=torch.float64)
    fresh = torch.tensor([[1.0, *[0.3] * 7]] * 2, dtype=torch.float64)
    gaps = find_gaps({"present": own, "fresh": fresh, "fresh head": own})
    assert sentence("none", gaps, 8).endswith(words)


def test_the_quantile_is_that_of_published_tables():
    table = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645, 7: 2.36462, 10: 2.22814, 29: 2.04523, 100: 1.98397}
    assert [t_quantile(n) for n in table] == pytest.approx(list(table.values()), rel=2e-6)
    assert estimate([1.0, 3.0]).high == pytest.approx(2 + 12.7062, rel=1e-5)


def training(checked):
    """A run with dropout, batch norm, an engine and drawing data; between forward and backward a check, or none."""
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    layers = [nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 16), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(16, CLASSES))
    net[3].eval()
    optimizer = adam(net.parameters())
    engine = gnt.GnT(net, optimizer, replacement_rate=0.1, maturity_threshold=1).attach()
    drawn = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(*task(64)), batch_size=16, shuffle=True, generator=drawn)
    for number, (x, y) in enumerate(loader):
        loss = F.cross_entropy(net(x), y)
        if number == 2:
            modes = [module.training for module in net.modules()]
            gradients = [p.grad.clone() for p in net.parameters()]
            with contextlib.suppress(KeyboardInterrupt):
                checked(net, optimizer, loader)
            assert_same([p.grad for p in net.parameters()], gradients)
            assert [module.training for module in net.modules()] == modes
        loss.backward()
        optimizer.step()
    drawing = [torch.rand(3), np.random.rand(3).tolist(), random.random(), drawn.get_state()]
    return [net.state_dict(), optimizer.state_dict(), engine.state_dict(), drawing]


def test_nothing_is_changed_bit_for_bit_also_if_interrupted():
    def whole(net, optimizer, loader):
        check(net, optimizer, loader, steps=3, seeds=2, fresh="labels")
        with torch.inference_mode():
            check(net, lambda net: gnt.optim.CBPAdamW(net), loader, steps=2, seeds=2, reinitialize=lambda net: None)

    def interrupted(net, optimizer, loader):
        def stop(progress):
            if progress.done >= 10:
                raise KeyboardInterrupt

        check(net, optimizer, loader, steps=20, seeds=2, progress=stop)

    plain = training(lambda *_: None)
    assert_same(training(whole), plain)
    assert_same(training(interrupted), plain)


def test_data_of_any_form_are_the_same_batches():
    x, y = task(64)
    pairs = [(x[:32], y[:32]), (x[32:], y[32:])]
    for data in (DataLoader(TensorDataset(x, y), batch_size=32), iter([*pairs, None]), pairs):
        assert_same([tuple(batch) for batch in read_batches(data, 2, 1)], pairs)
    (only,) = read_batches([([x], y)], 5, 1)
    assert_same(only.x, (x,))
    (only,) = read_batches([{"input": x, "labels": y}], 5, 1)
    assert_same(only.x, {"input": x})
    drawn = [torch.cat([batch.y for batch in read_batches(data, 9, 8)]) for data in ((x, y), TensorDataset(x, y))]
    assert_same(*drawn)
    assert drawn[0].equal(y[torch.randperm(64, generator=torch.Generator().manual_seed(0))])


def test_an_optimizer_is_made_anew_with_its_settings_and_initial_rate():
    net = network()
    groups = [{"params": net[:2].parameters(), "lr": 0.02}, {"params": net[2:].parameters()}]
    optimizer = torch.optim.AdamW(groups, lr=0.005, weight_decay=0.3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1)
    optimizer.step()
    schedule.step()

    def by_hand(network):
        groups = [{"params": network[:2].parameters(), "lr": 0.02}, {"params": network[2:].parameters()}]
        return torch.optim.AdamW(groups, lr=0.005, weight_decay=0.3)

    assert_same(check(net, optimizer, steps=5, seeds=2).losses, check(net, by_hand, steps=5, seeds=2).losses)


class Scaled(nn.Module):
    def __init__(self, trace=True):
        super().__init__()
        self.fc, self.out, self.scale = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 1), nn.Parameter(torch.ones(()))
        self.frozen, self.traceable = nn.Linear(8, 8).requires_grad_(False), trace

    def forward(self, x):
        if not self.traceable and float(x.sum()) > 1e9:  # which torch.export cannot follow
            return x
        return self.out(torch.relu(self.scale * self.fc(self.frozen(x)))).squeeze(1)


def test_parameters_without_known_initial_values_are_named_and_a_function_helps():
    data = task(64)[0], torch.randn(64)
    settings = {"data": data, "loss": "mse", "steps": 3, "seeds": 2}
    with pytest.raises(ValueError, match=r"initial values of scale are not known.*pass reinitialize="):
        check(Scaled(), **settings)
    seen = []

    def renew(net):
        seen.append(net)
        net.fc.reset_parameters()

    net = Scaled(trace=False)
    found = check(net, reinitialize=renew, **settings)
    assert len(seen) == 2
    assert all(each is not net for each in seen)
    assert found.measure == "loss"
    assert found.notes[0].startswith("no figures of units: ")
    assert [layer.units for layer in found.present] == [None] * 3
    assert "gradient" in str(found)
    built = check(net, reinitialize=lambda: Scaled(trace=False), **settings)
    assert built.fresh[2] == built.present[2]  # frozen
    assert built.fresh[0] != built.present[0]
    with pytest.raises(ValueError, match=r"same architecture: .* has shape"):
        check(net, reinitialize=lambda: nn.ModuleDict({"fc": nn.Linear(2, 2)}), **settings)


def test_fresh_networks_begin_without_statistics_of_inputs():
    """The check of a network that has seen large inputs is that of a network that has seen none."""
    net = nn.Sequential(gnt.InputNorm(8), *network())
    new = copy.deepcopy(net)
    net(100 * torch.randn(64, 8))
    assert_same(check(net, steps=5, seeds=2).losses["fresh"], check(new, steps=5, seeds=2).losses["fresh"])


def test_units_of_cbp_layers_begin_at_age_0_in_fresh_networks_alone():
    torch.manual_seed(0)
    first, last = nn.Linear(8, 16), nn.Linear(16, CLASSES)
    net = nn.Sequential(first, nn.ReLU(), gnt.CBPLinear(first, last), last)
    optimizer, (x, y) = adam(net.parameters()), task(32)
    for _ in range(7):
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    ages = []

    def make(net):
        ages.append(int(net[2].group.state.age.max()))
        return adam(net.parameters())

    check(net, make, steps=2, seeds=2)
    assert ages[-6:] == [7, 7, 0, 0, 7, 7]  # present, fresh, fresh head
    assert net[2].engine.updates == 7


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"net": 3}, TypeError, "model must be a torch.nn.Module, got int"),
        ({"make": 3}, TypeError, "make_optimizer must be a function"),
        ({"make": lambda params: None}, TypeError, "make_optimizer must return a torch.optim.Optimizer, got NoneType"),
        ({"make": lambda params: adam(network().parameters())}, ValueError, "holds no parameter of the network"),
        ({"make": torch.optim.LBFGS}, TypeError, "LBFGS needs a closure"),
        ({"data": []}, ValueError, "at least one batch"),
        ({"data": 5}, TypeError, "data must be a DataLoader"),
        ({"data": [torch.ones(2)] * 3}, TypeError, "batch 0 must be a pair"),
        ({"data": (torch.ones(2, 8), torch.ones(3))}, ValueError, "as many targets as inputs"),
        ({"loss": "hinge"}, ValueError, "loss must be one of"),
        ({"loss": lambda output, y: output}, ValueError, "loss must return one number"),
        ({"loss": None}, TypeError, "loss must be a function"),
        ({"steps": 0}, ValueError, "steps must be an integer >= 1"),
        ({"fresh": "noise"}, ValueError, "fresh must be one of 'data', 'labels', 'permutation'"),
        ({"seeds": 1}, ValueError, "at least two"),
        ({"seeds": [1, 1]}, ValueError, "all different"),
        ({"head": "9"}, ValueError, "head must be paths of layers with parameters, got '9'"),
        ({"progress": 1}, TypeError, "progress must be True, False or a function"),
        ({"reinitialize": 1}, TypeError, "reinitialize must be a function or None"),
    ],
)
def test_errors_name_the_argument_and_change_nothing(settings, error, message):
    net = network()
    before, drawn = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    with pytest.raises(error, match=message):
        check(**{"net": net, **settings})
    assert_same([net.state_dict(), torch.get_rng_state()], [before, drawn])


def test_the_report_is_text_numbers_and_a_picture(severe, tmp_path, monkeypatch):
    text = str(severe)
    assert text.startswith("Severe loss of plasticity: the present network misses")
    assert "worth trying first" in text
    numbers = severe.to_dict("check/")
    assert numbers["check/severity"] == 2.0
    assert numbers["check/dead_units/0"] > 0.9
    assert all(isinstance(value, float) for value in numbers.values())
    severe.draw(tmp_path / "check.png")
    assert (tmp_path / "check.png").stat().st_size > 10_000
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .torch-gnt\[benchmarks\]"):
        severe.plot()


def test_the_cost_is_said_before_the_first_step(capsys):
    check(network(), steps=10, seeds=2, progress=True)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "gnt: plasticity check: 3 copies x 2 seeds x 10 steps = 60 training steps"
    assert second.startswith("gnt: about ")
    seen = []
    check(network(), steps=10, seeds=2, progress=seen.append)
    assert (seen[0].done, seen[0].total, seen[0].seconds_left) == (0, 60, None)
    assert (seen[-1].done, seen[-1].seconds_left) == (60, 0.0)
    assert capsys.readouterr().err == ""


def test_outputs_and_targets_that_mse_would_broadcast_are_refused():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
    data = torch.randn(32, 4), torch.randn(32)
    with pytest.raises(
        ValueError, match=r"mse compares output and target element by element: output \(\d+, 1\), y \(\d+,\)"
    ):
        check(net, data=data, loss="mse", steps=3, seeds=2)
