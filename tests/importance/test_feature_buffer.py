"""What is recorded: what the consumers read, in training mode with grad, until the next update, and nowhere else."""

from __future__ import annotations

import copy
import gc
import io
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


def hooks(net: nn.Module) -> list[int]:
    return [len(module._forward_pre_hooks) for module in net.modules() if module._forward_pre_hooks]


def means(engine: gnt.GnT) -> list[Tensor]:
    return [group.state.corrected_mean_feature for group in engine.groups]


def read(net: nn.Sequential, x: Tensor, engine: gnt.GnT) -> list[Tensor]:
    """What the consumers read, by running the layers one by one, their hooks aside."""
    seen = {}
    for module in net:
        seen[id(module)] = x
        x = module.forward(x)
    return [seen[id(group.consumers[0])] for group in engine.groups]


def test_recorded_is_what_the_consumers_read():
    net = conv_net()
    engine = gnt.GnT(net)
    x, _ = batch(0, 1, 8, 8)
    net(x)
    engine.update()
    given = gnt.GnT(net, record=False)
    features = read(net, x, given)
    given.update(features)
    assert [f.ndim for f in features] == [4, 2, 2]
    assert_same([g.state.state_dict() for g in engine.groups], [g.state.state_dict() for g in given.groups])
    by_channel = [features[0].mean((0, 2, 3)), features[1].view(8, 4, 4).mean((0, 2)), features[2].mean(0)]
    torch.testing.assert_close(means(engine), by_channel)


def test_a_feature_given_by_keyword_is_recorded():
    first, second = nn.Linear(4, 8), nn.Linear(8, 2)
    engine = gnt.GnT([first, F.relu, second])
    x, _ = batch(0)
    second(input=F.relu(first(x)))
    engine.update()
    torch.testing.assert_close(means(engine)[0], F.relu(first(x)).mean(0))


def test_flat_sequences_and_single_samples_count_every_row():
    net = mlp(4, 8, 2)
    engine = gnt.GnT(net, decay_rate=0.0)
    x = torch.randn(3, 5, 4)
    net(x)
    engine.update()
    torch.testing.assert_close(means(engine)[0], net[1](net[0](x)).mean((0, 1)).detach())
    net(x[0, 0])
    engine.update()
    torch.testing.assert_close(means(engine)[0], net[1](net[0](x[0, 0])).detach())


@pytest.mark.parametrize("mode", ["eval", "no_grad", "inference"])
def test_forwards_that_do_not_learn_leave_no_trace(mode):
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
            nets[0][1].eval()  # its running statistics do not ask for gradients
            with torch.no_grad() if mode == "no_grad" else torch.inference_mode():
                nets[0](batch(99, 1, 8, 8)[0])
            nets[0].train()
        for run in zip(nets, opts, engines, strict=True):
            train(*run, range(t, t + 1), 1, 8, 8)
    assert_same(*[full_state(*run) for run in zip(nets, opts, engines, strict=True)])
    assert all(group.state.replaced for group in engines[0].groups)


@pytest.mark.parametrize("sizes", [(4, 4), (5, 2, 1), (1, 0, 7)])
@pytest.mark.parametrize("utility", ["contribution", "adaptable_contribution"])
def test_several_forwards_before_one_step_are_one_batch_of_their_samples(sizes, utility):
    net = conv_net().double()
    net[1].eval()  # a batch norm that learns from each part would make other features
    apart, joined = gnt.GnT(net, utility=utility), gnt.GnT(net, utility=utility, record=False)
    for t in range(3):
        x = batch(t, 1, 8, 8)[0].double()
        for part in x.split(sizes):
            net(part)
        apart.update()
        joined.update(read(net, x, joined))
    assert apart.updates == 3
    for a, b in zip(apart.groups, joined.groups, strict=True):
        assert a.state.age.tolist() == [3] * a.num_units
        torch.testing.assert_close(a.state.mean_feature, b.state.mean_feature, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(a.state.utility, b.state.utility, rtol=1e-12, atol=1e-14)


def test_a_checkpointed_forward_counts_once():
    net = mlp()
    engine, plain = gnt.GnT(net), gnt.GnT(net, record=False)
    x, _ = batch(0)
    checkpoint(net, x.requires_grad_(), use_reentrant=True).sum().backward()
    engine.update()
    plain.update(read(net, x, plain))
    assert_same([g.state.state_dict() for g in engine.groups], [g.state.state_dict() for g in plain.groups])


def test_discarded_features_are_forgotten():
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
    plain.update(read(net, x, plain))
    assert_same([g.state.state_dict() for g in engine.groups], [g.state.state_dict() for g in plain.groups])


def test_given_features_stand_in_for_recorded_ones_and_need_not_be_detached():
    net = mlp()
    engine, plain = gnt.GnT(net), gnt.GnT(net, record=False)
    net(batch(0)[0])
    given = [torch.rand(3, 8, requires_grad=True), torch.rand(3, 6, requires_grad=True)]
    engine.step(given)
    plain.step(given)
    assert_same([g.state.state_dict() for g in engine.groups], [g.state.state_dict() for g in plain.groups])
    with pytest.raises(RuntimeError, match="no features"):
        engine.step()


def test_engines_side_by_side_each_record():
    net = mlp()
    first, second = gnt.GnT(net), gnt.GnT(net, decay_rate=0.5)
    net(batch(0)[0])
    first.update()
    second.update()
    torch.testing.assert_close(means(first), means(second))
    assert hooks(net) == [2, 2]
    first.close()
    assert hooks(net) == [1, 1]


def test_an_engine_that_is_gone_records_no_more():
    net = mlp()
    engine = gnt.GnT(net)
    engine.groups[0].state.age  # noqa: B018
    del engine
    gc.collect()
    assert hooks(net) == []


def test_many_forwards_without_a_step_are_told():
    net = mlp(1, 2, 1)
    engine = gnt.GnT(net)
    x = torch.ones(1, 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(1100):
            net(x)
    assert [str(w.message) for w in caught] == [
        "1000 forwards of the consumer of group '0' are waiting for an update: call GnT.step() after each optimizer "
        "step, or close() the engine"
    ]
    engine.close()


def copies(net: nn.Module) -> list[nn.Module]:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return [copy.deepcopy(net), pickle.loads(pickle.dumps(net)), torch.load(file, weights_only=False)]


def test_a_copied_network_records_nothing_and_works():
    net = mlp()
    engine = gnt.GnT(net)
    x, _ = batch(0)
    for copied in copies(net):
        torch.testing.assert_close(copied(x), net.eval()(x))
        net.train()
        with pytest.raises(RuntimeError, match="no features"):
            engine.step()
        of_copy = gnt.GnT(copied)
        copied(x)
        of_copy.step()
        assert hooks(copied) == [1, 1]  # the one that slept is gone
        of_copy.close()
        assert hooks(copied) == []
    assert hooks(net) == [1, 1]


@pytest.mark.parametrize("closed", [False, True])
def test_a_loaded_network_takes_hooks_of_the_users(closed, monkeypatch):
    """In a fresh process torch numbers hooks from 0 again, so the numbers of saved ones come up once more."""
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
