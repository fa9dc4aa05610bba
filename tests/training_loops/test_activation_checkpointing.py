"""Activation checkpointing: a forward that is run again in the backward counts once, whatever way in was taken."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import gnt
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch
from tests.helpers.training_loops import ENTRY_POINTS, make_loop

EACH = pytest.mark.parametrize("name", ENTRY_POINTS)
REENTRANT = pytest.mark.parametrize("reentrant", [False, True], ids=["not reentrant", "reentrant"])


def whole(reentrant):
    return lambda layers, x: checkpoint(layers, x.requires_grad_(), use_reentrant=reentrant)


def parts(reentrant):
    return lambda layers, x: checkpoint_sequential(layers, 2, x.requires_grad_(), use_reentrant=reentrant)


def but_the_end(reentrant):
    """As blocks are checkpointed and a head is not."""
    return lambda layers, x: layers[-3:](checkpoint(layers[:-3], x.requires_grad_(), use_reentrant=reentrant))


def nested(reentrant):
    inner = but_the_end(reentrant)
    return lambda layers, x: checkpoint(lambda x: inner(layers, x), x.requires_grad_(), use_reentrant=reentrant)


@pytest.mark.parametrize("how", [whole, parts, but_the_end, nested])
@REENTRANT
@EACH
def test_as_without_checkpoints(name, reentrant, how):
    plain, mine = make_loop(name).train(range(12)), make_loop(name, how(reentrant)).train(range(12))
    assert_same(mine.state(), plain.state())
    assert mine.updates() == {12}
    assert mine.replaced() > 6


@REENTRANT
@EACH
def test_micro_batches(name, reentrant):
    if name == "learner":
        name = "manual"  # a learner takes whole batches
    plain, mine = make_loop(name), make_loop(name, but_the_end(reentrant))
    for run in (plain, mine):
        for t in range(8):
            run.optimizer.zero_grad()
            for micro in range(3):
                x, y = batch(10 * t + micro, n=2 + micro)
                F.mse_loss(run.net(x), y).backward()
            run.optimizer.step()
            run.after_step()
    assert_same(mine.state(), plain.state())
    assert mine.updates() == {8}


@REENTRANT
def test_a_rollout_without_grad_is_no_checkpoint(reentrant):
    plain, mine = make_loop("attached"), make_loop("attached", parts(reentrant))
    for t in range(8):
        with torch.no_grad():
            mine.net(batch(100 + t)[0])
        plain.step(*batch(t))
        mine.step(*batch(t))
    assert_same(mine.state(), plain.state())


@REENTRANT
def test_what_waits_is_what_was_read_once(reentrant):
    seen = make_loop("attached", whole(reentrant))
    taps = seen.engines[0].feature_buffer.taps
    x, y = batch(0)
    for forwards in (1, 2):
        F.mse_loss(seen.net(x), y).backward()
        assert [len(tap._with_gradient) + len(tap._pending_features()) for tap in taps] == [forwards] * 3


def test_a_learner_refuses_a_net_that_shows_no_features_before_the_step():
    run = make_loop("learner")
    run.train(range(2))
    run.net.eval()
    before = run.state()
    with pytest.raises(RuntimeError, match="no features of group"):
        run.step(*batch(3))
    assert_same(run.state(), before)


@REENTRANT
def test_transformers_gradient_checkpointing(reentrant):
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, image_size=8, patch_size=4,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=3,
    )  # fmt: skip

    def run(checkpointing):
        torch.manual_seed(0)
        net = transformers.ViTForImageClassification(config).train()
        if checkpointing:
            renamed = getattr(net, "activation_checkpointing_enable", None)  # in version 5
            (renamed or net.gradient_checkpointing_enable)({"use_reentrant": reentrant})
        groups = [
            group
            for name, module in net.named_modules()
            if name.endswith(("layer.0", "layer.1", "layers.0", "layers.1"))
            for group in gnt.walk([linears(module)[-2], nn.GELU(), linears(module)[-1]])
        ]
        assert len(groups) == 2
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
        engine = gnt.GnT(groups, optimizer, generator=torch.Generator().manual_seed(5), **FREQUENT_REPLACEMENT).attach()
        for t in range(6):
            images, _ = batch(t, 3, 8, 8)
            images.requires_grad_()
            optimizer.zero_grad()
            net(pixel_values=images, labels=torch.arange(8) % 3).loss.backward()
            optimizer.step()
        assert engine.updates == 6
        return [dict(net.state_dict()), [g.state.state_dict() for g in engine.groups], sum_replaced(engine)]

    plain, mine = run(False), run(True)
    assert_same(mine, plain)
    assert mine[2] > 0


def linears(module):
    return [m for m in module.modules() if isinstance(m, nn.Linear)]


def sum_replaced(engine):
    return sum(group.state.replaced for group in engine.groups)
