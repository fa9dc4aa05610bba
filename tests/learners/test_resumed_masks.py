"""Learners with a `HAT`, whose embedding the optimizer gets in the first task: saving, loading and going back."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gnt
from tests.helpers.small_runs import assert_same

pytestmark = pytest.mark.filterwarnings("ignore:no capacity is left")

METHODS: dict[str, Callable[..., gnt.HAT]] = {
    "HAT": gnt.HAT,
    "AdaHAT": lambda net, groups, **given: gnt.AdaHAT(net, groups, alpha=0.4, **given),
    "FGAdaHAT": lambda net, groups, **given: gnt.FGAdaHAT(net, groups, alpha=8.0, **given),
    "FGAdaHAT, attribution": lambda net, groups, **given: gnt.FGAdaHAT(
        net, groups, alpha=8.0, importance="gradient_shap", every=2, **given
    ),
}
OPTIMIZERS = {"sgd": {"momentum": 0.9}, "adam": {}}


def make_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def make_learner(kind: str, opt: str = "adam", learner: type[gnt.Backprop] = gnt.Backprop, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    net = make_net()
    hat = METHODS[kind](net, gnt.walk(net), sparsity=0.1, generator=torch.Generator().manual_seed(seed))
    return learner(net, opt=opt, step_size=0.05, loss="cross_entropy", methods=[hat], **OPTIMIZERS[opt])


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 4, generator=generator), torch.randint(3, (8,), generator=generator)


def train(learner: Any, until: int, start: int = 0) -> list[Tensor]:
    """Steps ``start`` to ``until`` of tasks of six steps, each begun before its first and ended after its last step."""
    outputs = []
    for step in range(start, until):
        if step % 6 == 0:
            learner.begin_task(task=step // 6, steps_per_epoch=4)
        outputs.append(learner.learn(*batch(step)).output)
        if step % 6 == 5:
            learner.end_task()
    return outputs


def saved(learner: Any) -> Any:
    """The state of a learner, as it is in a file."""
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def seeded(function: Callable[..., Any], *arguments: Any, **given: Any) -> Any:
    torch.manual_seed(9)
    return function(*arguments, **given)


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("opt", OPTIMIZERS)
@pytest.mark.parametrize("step", [3, 6, 10, 12], ids=["in task 0", "after task 0", "in task 1", "after task 1"])
def test_a_new_learner_goes_on_bit_for_bit_from_a_saved_state(kind, opt, step):
    learner, resumed = make_learner(kind, opt), make_learner(kind, opt, seed=1)
    train(learner, step)
    resumed.load_state_dict(saved(learner))
    results = [(seeded(train, each, 18, step), saved(each)) for each in (learner, resumed)]
    assert_same(*results)
    assert learner.methods[0].tasks == [0, 1, 2]


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("back", [0, 3, 6], ids=["before the first task", "in a task", "between tasks"])
def test_a_learner_goes_back_to_an_earlier_state_of_its_own(kind, back):
    learner = make_learner(kind)
    train(learner, back)
    state = saved(learner)
    first = seeded(train, learner, 8, back)
    learner.load_state_dict(state)
    assert_same(saved(learner), state)
    assert_same(seeded(train, learner, 8, back), first)


def test_an_optimizer_goes_on_refusing_steps_between_tasks():
    learner, resumed = make_learner("HAT"), make_learner("HAT")
    train(learner, 6)
    resumed.load_state_dict(saved(learner))
    with pytest.raises(RuntimeError, match="no task is open for this Adam"):
        resumed.opt.step()
    resumed.load_state_dict(saved(make_learner("HAT")))
    plain = make_learner("HAT")
    for each in (resumed, plain):
        each.methods = []
        each.learn(*batch(6))
    assert_same(dict(resumed.net.state_dict()), dict(plain.net.state_dict()))


@pytest.mark.parametrize("part", ["net", "opt", "methods"])
@pytest.mark.parametrize("step", [0, 3, 6], ids=["before the first task", "in a task", "between tasks"])
def test_a_state_that_does_not_fit_changes_nothing(part, step):
    learner, source = make_learner("HAT"), make_learner("HAT")
    train(learner, step)
    train(source, 3 if step != 3 else 6)
    state = saved(source)
    state[part] = {"net": {}, "opt": {"state": {}, "param_groups": [1, 2, 3]}, "methods": [{}]}[part]
    before = saved(learner)
    with pytest.raises(ValueError, match=f"'{part}' that does not fit"):
        learner.load_state_dict(state)
    assert_same(saved(learner), before)
    twin = make_learner("HAT")
    train(twin, step)
    assert_same(seeded(train, learner, 8, step), seeded(train, twin, 8, step))


def test_each_method_gets_the_group_of_its_own():
    def make(seed: int) -> Any:
        torch.manual_seed(seed)
        net = make_net()
        hats = [gnt.HAT(net, [group], generator=torch.Generator().manual_seed(seed)) for group in gnt.walk(net)]
        return gnt.ContinualBackprop(net, opt="adam", loss="cross_entropy", methods=hats)

    learner, resumed = make(0), make(1)
    train(learner, 3)
    resumed.load_state_dict(saved(learner))
    assert [len(options["params"][0]) for options in resumed.opt.param_groups[1:]] == [8, 6]
    assert_same(train(learner, 8, 3), train(resumed, 8, 3))
    state = copy.deepcopy(saved(make(0)))
    learner.load_state_dict(state)
    assert len(learner.opt.param_groups) == 1


@pytest.mark.parametrize("first_order", [True, False])
def test_la_maml_learns_masks_and_goes_on_from_a_saved_state(first_order):
    def make(seed: int = 0) -> Any:
        torch.manual_seed(seed)
        net = make_net()
        hat = gnt.HAT(net, gnt.walk(net), sparsity=0.1, generator=torch.Generator().manual_seed(seed))
        buffer = gnt.ReplayBuffer(20, generator=torch.Generator().manual_seed(seed))
        settings: Any = {"loss": "cross_entropy", "inner_steps": 2, "max_norm": 2.0, "first_order": first_order}
        return gnt.LaMAML(net, buffer, methods=[hat], **settings)

    learner, outputs = make(), []
    for step in range(12):
        train(learner, step + 1, step)
        if step in (4, 8):
            resumed = make(1)
            resumed.load_state_dict(saved(learner))
            assert_same(train(copy.deepcopy(learner), 12, step + 1), train(resumed, 12, step + 1))
        if step in (5, 11):
            learner.net.eval()
            with learner.methods[0].use(0), torch.no_grad():
                outputs.append(learner.net(batch(99)[0]))
            learner.net.train()
    assert_same(*outputs)
    assert learner.rate(learner.methods[0].embedding).unique().tolist() == [pytest.approx(0.1)]
    with pytest.raises(ValueError, match="rate must be one of a parameter that the optimizer holds"):
        learner.rate(torch.zeros(3))
