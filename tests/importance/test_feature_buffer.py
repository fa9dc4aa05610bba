"""Recording of features: consumer inputs of training-mode forwards with gradients, kept until the next update."""

from __future__ import annotations

import gc
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

import gnt
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, conv_net, full_state, mlp, train
from tests.replacement.copy_methods import COPY_METHODS


def hook_counts(net: nn.Module) -> list[int]:
    """The number of forward pre-hooks of each module that has any."""
    return [len(module._forward_pre_hooks) for module in net.modules() if module._forward_pre_hooks]


def mean_features(engine: gnt.GnT) -> list[Tensor]:
    return [group.state.corrected_mean_feature for group in engine.groups]


def consumer_inputs(net: nn.Sequential, x: Tensor, engine: gnt.GnT) -> list[Tensor]:
    """The input of each group's consumer, computed layer by layer without calling hooks."""
    inputs = {}
    for module in net:
        inputs[id(module)] = x
        x = module.forward(x)
    return [inputs[id(group.consumers[0])] for group in engine.groups]


def test_recorded_features_are_the_inputs_of_the_consumers():
    net = conv_net()
    engine = gnt.GnT(net)
    x, _ = batch(0, 1, 8, 8)
    net(x)
    engine.update()
    passed = gnt.GnT(net, record=False)
    features = consumer_inputs(net, x, passed)
    passed.update(features)
    assert [f.ndim for f in features] == [4, 2, 2]
    assert_same([g.state.state_dict() for g in engine.groups], [g.state.state_dict() for g in passed.groups])
    by_channel = [features[0].mean((0, 2, 3)), features[1].view(8, 4, 4).mean((0, 2)), features[2].mean(0)]
    torch.testing.assert_close(mean_features(engine), by_channel)


def test_features_passed_by_keyword_are_recorded():
    first, second = nn.Linear(4, 8), nn.Linear(8, 2)
    engine = gnt.GnT([first, F.relu, second])
    x, _ = batch(0)
    second(input=F.relu(first(x)))
    engine.update()
    torch.testing.assert_close(mean_features(engine)[0], F.relu(first(x)).mean(0))


def test_mean_features_average_over_samples_and_time_steps():
    net = mlp(4, 8, 2)
    engine = gnt.GnT(net, decay_rate=0.0)
    x = torch.randn(3, 5, 4)
    net(x)
    engine.update()
    torch.testing.assert_close(mean_features(engine)[0], net[1](net[0](x)).mean((0, 1)).detach())
    net(x[0, 0])
    engine.update()
    torch.testing.assert_close(mean_features(engine)[0], net[1](net[0](x[0, 0])).detach())


@pytest.mark.parametrize("mode", ["eval", "no_grad", "inference"])
def test_forwards_without_gradients_or_in_eval_mode_are_not_recorded(mode):
    nets = [conv_net(), conv_net()]
    opts = [torch.optim.SGD(net.parameters(), 0.05) for net in nets]
    engines = [
        gnt.GnT(n, o, generator=torch.Generator(), **FREQUENT_REPLACEMENT) for n, o in zip(nets, opts, strict=True)
    ]
    for t in range(5):
        if mode == "eval":
            nets[0].eval()(batch(99, 1, 8, 8)[0])
            nets[0].train()
        else:
            nets[0][1].eval()  # running statistics are updated even without gradients
            with torch.no_grad() if mode == "no_grad" else torch.inference_mode():
                nets[0](batch(99, 1, 8, 8)[0])
            nets[0].train()
        for run in zip(nets, opts, engines, strict=True):
            train(*run, range(t, t + 1), 1, 8, 8)
    assert_same(*[full_state(*run) for run in zip(nets, opts, engines, strict=True)])
    assert all(group.state.replaced for group in engines[0].groups)


@pytest.mark.parametrize("sizes", [(4, 4), (5, 2, 1), (1, 0, 7)])
@pytest.mark.parametrize("utility", ["contribution", "adaptable_contribution"])
def test_several_forwards_before_one_update_equal_one_joined_batch(sizes, utility):
    net = conv_net().double()
    net[1].eval()  # in training mode batch norm would normalize each part by its own statistics
    split, joined = gnt.GnT(net, utility=utility), gnt.GnT(net, utility=utility, record=False)
    for t in range(3):
        x = batch(t, 1, 8, 8)[0].double()
        for part in x.split(sizes):
            net(part)
        split.update()
        joined.update(consumer_inputs(net, x, joined))
    assert split.updates == 3
    for a, b in zip(split.groups, joined.groups, strict=True):
        assert a.state.age.tolist() == [3] * a.num_units
        torch.testing.assert_close(a.state.mean_feature, b.state.mean_feature, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(a.state.utility, b.state.utility, rtol=1e-12, atol=1e-14)


def test_a_reentrant_checkpointed_forward_is_recorded_once():
    net = mlp()
    engine, plain = gnt.GnT(net), gnt.GnT(net, record=False)
    x, _ = batch(0)
    checkpoint(net, x.requires_grad_(), use_reentrant=True).sum().backward()
    engine.update()
    plain.update(consumer_inputs(net, x, plain))
    assert_same([g.state.state_dict() for g in engine.groups], [g.state.state_dict() for g in plain.groups])


def test_learners_train_a_checkpointed_network_like_a_plain_one():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = mlp(4, 6, 2)

        def forward(self, x):
            return checkpoint(self.layers, x, use_reentrant=False)

    plain, checkpointed = mlp(4, 6, 2), Checkpointed()
    checkpointed.layers.load_state_dict(plain.state_dict())
    learners = [gnt.ContinualBackprop(net, maturity_threshold=2, replacement_rate=0.3) for net in (plain, checkpointed)]
    learners[1].gnt.generator.set_state(learners[0].gnt.generator.get_state())
    for _ in range(20):
        x, y = torch.randn(3, 4), torch.randn(3, 2)
        for learner in learners:
            learner.learn(x, y)
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_discarded_features_do_not_enter_the_next_update():
    net = mlp()
    engine, plain = gnt.GnT(net), gnt.GnT(net, record=False)
    net(batch(0)[0])
    engine.discard()
    with pytest.raises(RuntimeError, match="no features"):
        engine.update()
    net(batch(0)[0])
    engine.discard()
    x, _ = batch(1)
    net(x)
    engine.update()
    plain.update(consumer_inputs(net, x, plain))
    assert_same([g.state.state_dict() for g in engine.groups], [g.state.state_dict() for g in plain.groups])


def test_passed_features_replace_recorded_ones_and_may_require_grad():
    net = mlp()
    engine, plain = gnt.GnT(net), gnt.GnT(net, record=False)
    net(batch(0)[0])
    given = [torch.rand(3, 8, requires_grad=True), torch.rand(3, 6, requires_grad=True)]
    engine.step(given)
    plain.step(given)
    assert_same([g.state.state_dict() for g in engine.groups], [g.state.state_dict() for g in plain.groups])
    with pytest.raises(RuntimeError, match="no features"):
        engine.step()


def test_a_deleted_engine_removes_its_hooks():
    net = mlp()
    engine = gnt.GnT(net)
    engine.groups[0].state.age  # noqa: B018
    del engine
    gc.collect()
    assert hook_counts(net) == []


def test_warns_once_after_1000_forwards_without_an_update():
    net = mlp(1, 2, 1)
    engine = gnt.GnT(net)
    x = torch.ones(1, 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(1100):
            net(x)
    assert [str(w.message) for w in caught] == [
        "1000 forwards of the consumer of group '0' are waiting for an update: call GnT.step() or Importance.update() "
        "after each optimizer step, or close() the object that reads them"
    ]
    engine.close()


def test_a_copied_network_does_not_record_for_the_original_engine():
    net = mlp()
    engine = gnt.GnT(net)
    x, _ = batch(0)
    for copy_method in COPY_METHODS.values():
        copied = copy_method(net)
        torch.testing.assert_close(copied(x), net.eval()(x))
        net.train()
        with pytest.raises(RuntimeError, match="no features"):
            engine.step()
        engine_of_copy = gnt.GnT(copied)
        copied(x)
        engine_of_copy.step()
        assert hook_counts(copied) == [1, 1]  # the inactive hook that was copied has been removed
        engine_of_copy.close()
        assert hook_counts(copied) == []
    assert hook_counts(net) == [1, 1]


@pytest.mark.parametrize("closed", [False, True])
def test_a_loaded_network_calls_hooks_registered_afterwards(closed, monkeypatch):
    """A new process numbers hooks from 0 again, so a new hook may get the same number as a saved one."""
    net = mlp()
    engine = gnt.GnT(net)
    saved = pickle.dumps(net)
    monkeypatch.setattr(RemovableHandle, "next_id", min(net[2]._forward_pre_hooks))
    loaded = pickle.loads(saved)
    if closed:
        gnt.GnT(loaded).close()
    seen = []
    loaded[2].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    loaded(batch(0)[0])
    assert len(seen) == 1
    engine.close()
