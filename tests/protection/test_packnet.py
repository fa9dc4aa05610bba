"""`PackNet`: outputs of earlier tasks never change, and counts of owned weights are exact."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gnt
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, IMAGE_SHAPE, assert_same, batch, conv_net, mlp

OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05),
}


def train(net, optimizer, steps, shape=(4,), after=lambda: None):
    for t in steps:
        x, y = batch(t, *shape)
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
        after()


def outputs(packnet: gnt.PackNet, x: Tensor) -> list[Tensor]:
    found = []
    for task in packnet.tasks:
        with packnet.use(task), torch.no_grad():
            found.append(packnet.net(x))
    return found


def learn_tasks(packnet, optimizer, number, shape=(4,), after=lambda: None, steps=4):
    """Train tasks; the outputs of each ended task are compared after each later one."""
    x, seen = torch.randn(6, *shape, generator=torch.Generator().manual_seed(3)), []
    for task in range(number):
        packnet.begin_task()
        train(packnet.net, optimizer, range(20 * task, 20 * task + steps), shape, after)
        assert_same(outputs(packnet, x), seen)
        packnet.prune()
        train(packnet.net, optimizer, range(20 * task + steps, 20 * task + 2 * steps), shape, after)
        packnet.end_task()
        now = outputs(packnet, x)
        assert_same(now[:-1], seen)
        assert now[-1].equal(packnet.net.eval()(x))
        packnet.net.train()
        seen = now
    assert not seen[0].equal(seen[-1])


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from(sorted(OPTIMIZERS)),
    st.sampled_from([0.3, 0.5, 0.75]),
    st.sampled_from(["mlp", "conv"]),
    st.sampled_from(["none", "attached", "by hand"]),
)
def test_outputs_of_earlier_tasks_are_equal_bit_for_bit(opt, prune, kind, engine):
    net, shape = (mlp(), (4,)) if kind == "mlp" else (conv_net(), IMAGE_SHAPE)
    optimizer = OPTIMIZERS[opt](net.parameters())
    packnet = gnt.PackNet(net, prune=prune, optimizer=None if engine == "by hand" else optimizer)
    after = lambda: None  # noqa: E731
    if engine != "none":
        gnt_engine = gnt.GnT(net, optimizer, protect=packnet, **FREQUENT_REPLACEMENT)
        if engine == "attached":
            gnt_engine.attach()
        else:
            after = lambda: (gnt_engine.step(), packnet.after_step())  # noqa: E731
    learn_tasks(packnet, optimizer, 3, shape, after)


@pytest.mark.parametrize("prune", [0.0, 1.0, 0.37])
def test_counts_are_exact_with_ties(prune):
    net = mlp(5, 7, 3)
    for weight in (net[0].weight, net[2].weight):
        nn.init.constant_(weight, 0.5)
    packnet = gnt.PackNet(net, prune=prune)
    free = {"0.weight": 35, "2.weight": 21}
    for task in ("a", "b"):
        packnet.begin_task(task)
        net(torch.randn(2, 5))
        packnet.end_task()  # no weight has moved: all free ones are tied
        for name, counts in packnet.owned().items():
            dropped = round(prune * free[name])
            assert counts["free"] == dropped
            assert counts[task] == free[name] - dropped
            free[name] = dropped
            if task == "a":
                assert int((net.get_parameter(name) == 0).sum()) == dropped
    assert all(net[i].bias.abs().sum() > 0 for i in (0, 2))  # biases are not pruned


def test_pruned_are_the_smallest_of_the_free_weights_of_each_layer():
    net = mlp(6, 8, 2)
    packnet = gnt.PackNet(net, prune=0.5)
    before = net[0].weight.detach().clone()
    packnet.begin_task()
    net(torch.randn(2, 6))
    packnet.prune()
    limit = before.abs().flatten().sort().values[23]
    assert torch.equal(net[0].weight, torch.where(before.abs() <= limit, 0.0, before))


def test_later_tasks_train_with_the_weights_of_earlier_ones_and_move_free_ones_only():
    net = mlp()
    optimizer = OPTIMIZERS["momentum"](net.parameters())
    packnet = gnt.PackNet(net, optimizer=optimizer)
    packnet.begin_task()
    train(net, optimizer, range(5))
    packnet.end_task()
    after_first = copy.deepcopy(dict(net.state_dict()))
    packnet.begin_task()
    train(net, optimizer, range(5, 8))
    owned = after_first["0.weight"] != 0
    assert net[0].weight[owned].equal(after_first["0.weight"][owned])
    assert (net[0].weight[~owned] != 0).any()
    assert all(net[i].bias.equal(after_first[f"{i}.bias"]) for i in (0, 2, 4))
    weights = copy.deepcopy(dict(net.state_dict()))
    with packnet.use(0):
        assert_same(dict(net.state_dict()), after_first)
        assert not net.training
    assert_same(dict(net.state_dict()), weights)  # evaluation destroys nothing
    assert net.training


def test_free_weights_of_an_interrupted_evaluation_come_back():
    net = mlp()
    packnet = gnt.PackNet(net)
    packnet.begin_task()
    train(net, torch.optim.SGD(net.parameters(), lr=0.1), range(2))
    packnet.end_task()
    packnet.begin_task()
    train(net, torch.optim.SGD(net.parameters(), lr=0.1), range(2), after=packnet.after_step)
    before = copy.deepcopy(dict(net.state_dict()))
    with pytest.raises(KeyError), packnet.use(0):
        raise KeyError
    assert_same(dict(net.state_dict()), before)


def test_protected_are_exactly_the_units_with_an_owned_weight():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(2, 4, 2), nn.ReLU(), nn.Conv2d(4, 6, 2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2))
    )
    packnet = gnt.PackNet(net, prune=0.96)
    engine = gnt.GnT(net, protect=packnet)
    packnet.begin_task()
    net(torch.randn(2, 2, 4, 4))
    packnet.end_task()
    shares: list[float] = []
    for group in engine.groups:
        expected = []
        for unit in range(group.num_units):
            producer, consumer = group.incoming[0].module.weight, group.outgoing[0].module.weight
            owned = bool(producer[unit].any())
            if consumer is net[2].weight:
                half = slice(0, 3) if unit < 2 else slice(3, 6)
                owned |= bool(consumer[half, unit % 2].any())
            else:
                owned |= bool(consumer[:, 4 * unit : 4 * unit + 4].any())
            expected.append(owned)
        assert packnet.protected(group).tolist() == expected
        shares.append(sum(expected) / len(expected))
        assert packnet.protected(group) is packnet.protected(group)
    assert 0 < min(shares) < 1


def test_biases_of_consumers_are_left_alone_by_replacement_after_the_first_task():
    net = mlp(4, 30, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    packnet = gnt.PackNet(net, prune=0.98, optimizer=optimizer)
    engine = gnt.GnT(net, optimizer, protect=packnet, **FREQUENT_REPLACEMENT).attach()
    packnet.begin_task()
    train(net, optimizer, range(5))
    packnet.end_task()
    bias, count = net[2].bias.detach().clone(), engine.groups[0].state.replaced
    packnet.begin_task()
    train(net, optimizer, range(5, 15))
    assert engine.groups[0].state.replaced > count
    assert net[2].bias.equal(bias)


def test_a_head_that_a_task_does_not_run_is_left_to_its_own_task():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.heads = nn.Linear(4, 8), nn.ModuleList(nn.Linear(8, 2) for _ in range(2))
            self.task = 0

        def forward(self, x):
            return self.heads[self.task](self.trunk(x).relu())

    torch.manual_seed(0)
    net = Net()
    packnet = gnt.PackNet(net)
    start = copy.deepcopy(dict(net.heads[1].state_dict()))
    packnet.begin_task()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    train(net, optimizer, range(4), after=packnet.after_step)
    net.task = 1
    gnt.trace(net, torch.zeros(2, 4))  # no training
    net.task = 0
    packnet.end_task()
    assert_same(dict(net.heads[1].state_dict()), start)
    packnet.begin_task()
    net.task = 1
    train(net, optimizer, range(4), after=packnet.after_step)
    assert not net.heads[1].bias.equal(start["bias"])
    packnet.end_task()
    assert packnet.owned()["heads.1.weight"] == {"free": 8, 0: 0, 1: 8}


def test_a_resumed_run_equals_the_uninterrupted_one():
    def build():
        net = conv_net()
        optimizer = OPTIMIZERS["adam"](net.parameters())
        return net, optimizer, gnt.PackNet(net, optimizer=optimizer)

    ends = []
    for interrupted in (False, True):
        net, optimizer, packnet = build()
        packnet.begin_task("first")
        train(net, optimizer, range(3), IMAGE_SHAPE)
        packnet.end_task()
        packnet.begin_task("second")
        train(net, optimizer, range(3, 5), IMAGE_SHAPE)
        packnet.prune()
        if interrupted:
            file = io.BytesIO()
            torch.save([each.state_dict() for each in (net, optimizer, packnet)], file)
            net, optimizer, packnet = build()
            file.seek(0)
            for each, state in zip((net, optimizer, packnet), torch.load(file, weights_only=True), strict=True):
                each.load_state_dict(state)
        train(net, optimizer, range(5, 8), IMAGE_SHAPE)
        packnet.end_task()
        ends.append((dict(net.state_dict()), packnet.state_dict(), outputs(packnet, torch.ones(2, *IMAGE_SHAPE))))
    assert_same(*ends)


def test_copies_go_on_alone():
    net = mlp()
    optimizer = OPTIMIZERS["adam"](net.parameters())
    packnet = gnt.PackNet(net, optimizer=optimizer)
    packnet.begin_task()
    train(net, optimizer, range(3))
    packnet.prune()
    copies = copy.deepcopy((net, optimizer, packnet))
    for own_net, own_optimizer, own in ((net, optimizer, packnet), copies):
        train(own_net, own_optimizer, range(3, 6))
        own.end_task()
    assert_same(dict(net.state_dict()), dict(copies[0].state_dict()))
    copy.deepcopy(net)(torch.randn(2, 4))


@pytest.mark.parametrize("given", ["network", "compiled network"])
def test_a_compiled_network_gives_the_results_of_the_plain_one(given):
    results = []
    for compiled in (False, True):
        net = mlp()
        model = torch.compile(net, backend="eager") if compiled else net
        optimizer = OPTIMIZERS["momentum"](net.parameters())
        packnet = gnt.PackNet(net if given == "network" else model, optimizer=optimizer)
        seen = []
        for task in range(2):
            packnet.begin_task()
            train(model, optimizer, range(10 * task, 10 * task + 3))
            packnet.prune()
            train(model, optimizer, range(10 * task + 3, 10 * task + 5))
            packnet.end_task()
            with packnet.use(0), torch.no_grad():
                seen.append(model(torch.ones(2, 4)))
        assert seen[0].equal(seen[1])
        results.append((dict(net.state_dict()), packnet.state_dict(), seen))
    assert_same(*results)


def test_as_a_method_of_a_learner():
    net = mlp(4, 12, 2)
    packnet = gnt.PackNet(net, prune=0.6)
    learner = gnt.ContinualBackprop(net, opt="adam", methods=[packnet], protect=packnet, **FREQUENT_REPLACEMENT)
    seen, x = [], torch.ones(3, 4)
    for task in range(3):
        learner.begin_task(task=task)
        for t in range(6):
            learner.learn(*batch(t + 10 * task))
            if t == 3:
                packnet.prune()
        learner.end_task()
        assert_same(outputs(packnet, x)[:-1], seen)
        seen = outputs(packnet, x)
    assert_same(learner.state_dict()["methods"][0], packnet.state_dict())


def test_errors_change_nothing():
    net = mlp()
    optimizer = torch.optim.SGD(list(net.parameters())[:-1], lr=0.1)
    with pytest.raises(ValueError, match=r"the optimizer does not hold parameter 4\.bias"):
        gnt.PackNet(net, optimizer=optimizer)
    with pytest.raises(TypeError, match=r"net must be a torch\.nn\.Module, got list"):
        gnt.PackNet([])  # type: ignore[arg-type]
    for wrong in (-0.1, 1.5, float("nan"), "half", True):
        with pytest.raises(ValueError, match=r"prune must be a number in \[0, 1\], got"):
            gnt.PackNet(net, prune=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ReLU has no weight of a linear or convolution layer"):
        gnt.PackNet(nn.ReLU())
    packnet = gnt.PackNet(net)
    with pytest.raises(RuntimeError, match="end_task: call begin_task first"):
        packnet.end_task()
    packnet.begin_task()
    before = packnet.state_dict()
    with pytest.raises(RuntimeError, match="task 0 is open"):
        packnet.begin_task()
    with pytest.raises(RuntimeError, match="task 0 is empty: no training forward was run"):
        packnet.end_task()
    net(torch.randn(2, 4))
    with torch.no_grad():
        value = float(net[2].weight[0, 0])
        net[2].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"parameter 2\.weight has values that are not finite"):
        packnet.end_task()
    with torch.no_grad():
        net[2].weight[0, 0] = value
    assert_same(packnet.state_dict()["owners"], before["owners"])
    packnet.end_task()
    with pytest.raises(ValueError, match=r"task must be a new id, got 0, which has ended; known are \[0\]"):
        packnet.begin_task(0)
    with pytest.raises(ValueError, match=r"task must be one that has ended \(\[0\]\), got 3"):
        packnet.use(3)
    before = packnet.net[0].weight.clone()
    with pytest.warns(
        UserWarning, match=r"PackNet\.use\(\) does nothing by itself: write 'with packnet\.use\(task\):'"
    ):
        packnet.use(0)
    assert packnet.net[0].weight.equal(before)
    with pytest.raises(ValueError, match="state_dict is of another network"):
        gnt.PackNet(mlp(4, 2)).load_state_dict(packnet.state_dict())
    damaged = packnet.state_dict()
    damaged["owners"][0][0, 0] = 9
    before = packnet.state_dict()
    with pytest.raises(ValueError, match="owners"):
        packnet.load_state_dict(damaged)
    assert_same(packnet.state_dict(), before)
    net[4].weight = nn.Parameter(torch.zeros(5, 6))
    with pytest.raises(ValueError, match=r"parameter 4\.weight, of shape \(2, 6\) for PackNet, is another tensor now"):
        packnet.begin_task()


@pytest.mark.parametrize("norm", ["batch", "input", "spectral"])
def test_norms_keep_the_statistics_of_the_first_task(norm: str):
    first = nn.Linear(4, 6)
    if norm == "spectral":
        first = nn.utils.parametrizations.spectral_norm(first)
    before = [gnt.InputNorm(4)] if norm == "input" else []
    after = [nn.BatchNorm1d(6)] if norm == "batch" else []
    net = nn.Sequential(*before, first, *after, nn.ReLU(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    packnet = gnt.PackNet(net, optimizer=optimizer)
    x, seen = batch(0)[0], []
    for task in range(2):
        packnet.begin_task()
        net.train()
        train(net, optimizer, range(3 * task, 3 * task + 3), after=lambda: net(2 * x + 1))
        if task == 1:
            assert net(x).equal(net.eval()(x))
        packnet.end_task()
        net.eval()
        seen += outputs(packnet, x)[:1]
    assert seen[0].equal(seen[1])


def test_a_head_that_is_added_between_tasks_is_trained_and_leaves_earlier_outputs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.heads, self.task = nn.Linear(4, 8), gnt.MultiHead(8, [2]), 0

        def forward(self, x):
            return self.heads(self.trunk(x).relu(), self.task)

    torch.manual_seed(0)
    net = Net()
    optimizer = OPTIMIZERS["momentum"](net.parameters())
    packnet = gnt.PackNet(net, optimizer=optimizer)
    packnet.begin_task()
    train(net, optimizer, range(3))
    packnet.end_task()
    before, new = outputs(packnet, torch.ones(2, 4)), net.heads.add(1, 2)
    with pytest.raises(ValueError, match=r"the optimizer does not hold parameter heads\.heads\.task_1\.0\.weight"):
        packnet.begin_task()
    optimizer.add_param_group({"params": new.parameters()})
    packnet.begin_task()
    net.task, start = 1, new.bias.detach().clone()
    train(net, optimizer, range(3))
    packnet.end_task()
    assert not new.bias.equal(start)
    net.task = 0
    assert_same(outputs(packnet, torch.ones(2, 4))[:1], before)


def test_another_optimizer_can_be_assigned_and_then_keeps_the_values_of_earlier_tasks():
    net = mlp()
    packnet = gnt.PackNet(net, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    first = packnet.optimizer
    packnet.begin_task()
    train(net, first, range(3))
    packnet.end_task()
    packnet.optimizer = second = torch.optim.Adam(net.parameters(), lr=0.05)
    owned = net[0].weight != 0
    held = net[0].weight[owned].clone()
    packnet.begin_task()
    train(net, second, range(3, 6))
    assert net[0].weight[owned].equal(held)
    assert not first._optimizer_step_post_hooks
    lacking = torch.optim.SGD(net[0].parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"the optimizer does not hold parameter 2\.weight"):
        packnet.optimizer = lacking
    assert packnet.optimizer is second


def test_a_network_with_norms_can_be_converted_before_and_between_tasks() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    pack = gnt.PackNet(net)
    for task, dtype in enumerate((torch.float64, torch.float32)):
        net.to(dtype)  # replaces the running statistics
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        pack.optimizer = optimizer
        pack.begin_task(task)
        for _ in range(3):
            optimizer.zero_grad()
            x, y = torch.randn(9, 6, dtype=dtype), torch.randint(3, (9,))
            torch.nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        pack.prune()
        pack.end_task()
        if not task:
            mean = net[1].running_mean.clone()
    torch.testing.assert_close(net[1].running_mean, mean.float())  # the first task's, as its weights
    with pack.use(0):
        assert net(x).dtype == torch.float32
