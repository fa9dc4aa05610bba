"""What `HAT` refuses before anything is changed, and what it warns of."""

from __future__ import annotations

import copy
import inspect
import math
import warnings

import pytest
import torch
from torch import nn

import gnt
from gnt.protection import Adaptive
from tests.helpers.small_runs import assert_same, mlp
from tests.protection.masked_runs import learn_steps, make_hat

pytestmark = pytest.mark.filterwarnings("ignore:no capacity is left")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"s_max": 0}, "s_max must be a finite number >= 1, got 0"),
        ({"s_max": 0.5}, "s_max must be a finite number >= 1, got 0.5"),
        ({"s_max": math.inf}, "s_max must be a finite number >= 1, got inf"),
        ({"sparsity": -0.1}, "sparsity must be a finite number >= 0, got -0.1"),
        ({"sparsity_mode": "crosss"}, "got 'crosss'; did you mean 'cross'"),
        ({"embedding": "last_task"}, "embedding must be one of 'normal', 'last', got 'last_task'; did you mean 'last'"),
        ({"embedding": (1, 0)}, "a pair"),
        ({"compensation": "publish"}, "did you mean 'published'"),
        ({"apply": "weights"}, "apply must be one of 'update', 'gradient'"),
        ({"uncovered": "x"}, "uncovered must be one of"),
        ({"norms": "independent"}, "norms must be one of 'per_task', 'shared'"),
        ({"min_free": -1}, "min_free must be an integer >= 0"),
        ({"protect_above": 1}, "protect_above must be 0 where weights of earlier tasks are fixed"),
        ({"embedding_clamp": 0}, "embedding_clamp must be a finite number > 0"),
        ({"protection": "hard"}, "protection must be Hard"),
        ({"groups": []}, "groups must be the unit groups"),
        ({"groups": mlp()}, "of gnt.trace or gnt.walk, got Sequential$"),
        ({"groups": gnt.walk(mlp())}, "is not of this model"),
        ({"idle": 1}, "idle must be True or False"),
    ],
    ids=str,
)
def test_settings_that_are_refused(given, message):
    net = mlp()
    arguments = {"groups": gnt.walk(net), **given}
    with pytest.raises((TypeError, ValueError), match=message):
        gnt.HAT(net, **arguments)
    assert not net[2]._forward_pre_hooks


@pytest.mark.parametrize("kind", [gnt.HAT, gnt.AdaHAT, gnt.FGAdaHAT])
def test_the_network_may_be_given_by_the_name_of_before_with_a_warning(kind):
    net, alpha = mlp(), {} if kind is gnt.HAT else {"alpha": 0.1}
    with pytest.warns(DeprecationWarning, match=f"the argument model of {kind.__name__} is called net") as warned:
        hat = kind(model=net, groups=gnt.walk(net), **alpha)
    assert warned[0].filename == __file__
    assert hat.net is hat.model is net
    hat.close()
    assert next(iter(inspect.signature(kind).parameters)) == "net"
    with pytest.warns(DeprecationWarning, match="the argument model of attribute is called net"):
        gnt.importance.attribute(model=net, groups=gnt.walk(net), x=torch.zeros(2, 4), target=torch.zeros(2).long())


def test_other_refusals_leave_everything_as_it_was():
    net, hat, optimizer = make_hat()
    groups = gnt.walk(net)
    for wrong, message in (
        (lambda: gnt.HAT(net, groups), "is gated by another HAT"),
        (lambda: gnt.HAT(mlp(), groups), "is not of this model"),
        (lambda: gnt.HAT(net, [*groups, groups[0]]), "listed twice"),
        (lambda: gnt.AdaHAT(net, groups, alpha=0), "alpha must be"),
        (lambda: gnt.AdaHAT(net, groups, alpha=1, epsilon=0), "epsilon must be"),
        (lambda: gnt.AdaHAT(net, groups, alpha=1, variant="no"), "variant must be one of"),
        (lambda: gnt.HAT(bn := nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, momentum=None), nn.Linear(3, 1)),
                         gnt.walk(bn)), "momentum=None"),
        (lambda: hat.begin(0.5, optimizer, steps_per_epoch=1), "task must be an integer or a string"),
        (lambda: hat.begin(0, optimizer, steps_per_epoch=0), "steps_per_epoch must be an integer >= 1"),
        (lambda: hat.begin(0, net, steps_per_epoch=1), "optimizer must be a torch.optim.Optimizer"),
        (lambda: hat.begin(0, torch.optim.SGD(net[0].parameters()), steps_per_epoch=1), "does not hold 2.weight"),
        (lambda: hat.use(0), r"task must be one that has begun \(\[\]\) or None, got 0"),
        (lambda: hat.end(), "no task is open"),
        (lambda: hat.penalty(), "no task is open"),
        (lambda: hat.resume(optimizer), "no task is open"),
        (lambda: hat.plot(), "no task has ended"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
            wrong()
    assert len(optimizer.param_groups) == 1
    hat.begin(0, optimizer, steps_per_epoch=1)
    for wrong, message in (
        (lambda: hat.begin(1, optimizer, steps_per_epoch=1), "task 0 is open"),
        (lambda: hat.end(), "task 0 is empty"),
        (lambda: optimizer.step(), "no step of task 0 has used penalty"),
    ):
        before = copy.deepcopy(dict(net.state_dict()))
        with pytest.raises(RuntimeError, match=message):
            wrong()
        assert_same(dict(net.state_dict()), before)
    learn_steps(hat, optimizer, range(1))
    with pytest.raises(TypeError, match="refresh must be an engine"):
        hat.end(refresh="engine")
    assert (hat.task, hat.tasks) == (0, [])
    hat.end()
    with pytest.raises(RuntimeError, match="no task is open for this SGD"):
        optimizer.step()
    with pytest.raises(ValueError, match="task must be a new id, got 0"):
        hat.begin(0, optimizer, steps_per_epoch=1)
    for change, message in (
        ({"s_max": 5.0}, "was saved with the settings"),
        ({"protection": Adaptive(1.0)}, "was saved with the settings"),
    ):
        _, other, _ = make_hat(**change)
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(hat.state_dict())
        assert not other.embedding.any()
    _, wider, _ = make_hat(mlp(4, 9, 6, 2))
    with pytest.raises(ValueError, match="is of another network"):
        wider.load_state_dict(hat.state_dict())


def test_warnings_of_decay_and_of_full_groups():
    net, hat, optimizer = make_hat(embedding=(1.0, 1.0))
    decayed = torch.optim.SGD([*net.parameters(), hat.embedding], weight_decay=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="decays the embedding"):
            hat.begin(0, decayed, steps_per_epoch=1)
    assert hat.task is None
    assert not hat.embedding.any()
    with pytest.warns(UserWarning, match="decays the embedding"):
        hat.begin(0, decayed, steps_per_epoch=1)
    learn_steps(hat, decayed, range(1))
    hat.end()
    with pytest.warns(UserWarning, match="no capacity is left in group '0', '2'"):
        hat.begin(1, optimizer, steps_per_epoch=1)
