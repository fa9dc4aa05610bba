"""Activation checkpointing: a forward that is recomputed in the backward counts once, for every entry point."""

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


def checkpoint_all(reentrant):
    return lambda layers, x: checkpoint(layers, x.requires_grad_(), use_reentrant=reentrant)


def checkpoint_segments(reentrant):
    return lambda layers, x: checkpoint_sequential(layers, 2, x.requires_grad_(), use_reentrant=reentrant)


def checkpoint_all_but_head(reentrant):
    """Checkpoint the blocks of a network but not its head."""
    return lambda layers, x: layers[-3:](checkpoint(layers[:-3], x.requires_grad_(), use_reentrant=reentrant))


def checkpoint_nested(reentrant):
    inner = checkpoint_all_but_head(reentrant)
    return lambda layers, x: checkpoint(lambda x: inner(layers, x), x.requires_grad_(), use_reentrant=reentrant)


@pytest.mark.parametrize("scheme", [checkpoint_all, checkpoint_segments, checkpoint_all_but_head, checkpoint_nested])
@REENTRANT
@EACH
def test_training_equals_training_without_checkpoints(name, reentrant, scheme):
    plain, checkpointed = make_loop(name).train(range(12)), make_loop(name, scheme(reentrant)).train(range(12))
    assert_same(checkpointed.state(), plain.state())
    assert checkpointed.updates() == {12}
    assert checkpointed.replaced() > 6


@REENTRANT
@EACH
def test_micro_batches(name, reentrant):
    if name == "learner":
        name = "manual"  # a learner does not accumulate gradients
    plain, checkpointed = make_loop(name), make_loop(name, checkpoint_all_but_head(reentrant))
    for run in (plain, checkpointed):
        for t in range(8):
            run.optimizer.zero_grad()
            for micro in range(3):
                x, y = batch(10 * t + micro, n=2 + micro)
                F.mse_loss(run.net(x), y).backward()
            run.optimizer.step()
            run.after_step()
    assert_same(checkpointed.state(), plain.state())
    assert checkpointed.updates() == {8}


@REENTRANT
def test_rollouts_without_grad_are_not_recorded(reentrant):
    plain, checkpointed = make_loop("attached"), make_loop("attached", checkpoint_segments(reentrant))
    for t in range(8):
        with torch.no_grad():
            checkpointed.net(batch(100 + t)[0])
        plain.step(*batch(t))
        checkpointed.step(*batch(t))
    assert_same(checkpointed.state(), plain.state())


@REENTRANT
def test_each_tap_holds_features_once_for_each_forward(reentrant):
    loop = make_loop("attached", checkpoint_all(reentrant))
    taps = loop.engines[0].feature_buffer.taps
    x, y = batch(0)
    for forwards in (1, 2):
        F.mse_loss(loop.net(x), y).backward()
        assert [len(tap.recorded()) for tap in taps] == [forwards] * 3


def test_a_learner_refuses_a_network_in_eval_mode_and_changes_nothing():
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
            new_name = getattr(net, "activation_checkpointing_enable", None)  # since transformers 5.23
            (new_name or net.gradient_checkpointing_enable)({"use_reentrant": reentrant})
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

    plain, checkpointed = run(False), run(True)
    assert_same(checkpointed, plain)
    assert checkpointed[2] > 0


def linears(module):
    return [m for m in module.modules() if isinstance(m, nn.Linear)]


def sum_replaced(engine):
    return sum(group.state.replaced for group in engine.groups)
