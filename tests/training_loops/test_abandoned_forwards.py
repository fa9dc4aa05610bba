"""Forwards without a backward do not count towards an update: early stopping in PPO, skipped batches in Lightning."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.small_runs import assert_same
from tests.integrations.sb3_helpers import SETTINGS, engine_of
from tests.integrations.test_lightning import Regression, cbp, fit
from tests.integrations.test_sb3 import ppo


def test_early_stopping_in_ppo(monkeypatch):
    """At its KL limit, SB3 goes on to the next rollout after a forward without a backward."""
    monkeypatch.setitem(SETTINGS, "replacement_rate", 0.0)
    monkeypatch.setitem(SETTINGS, "kernels", False)  # compared bit for bit with torch operations
    model = ppo("CartPole-v1", target_kl=1e-9)
    optimizer, group = model.policy.optimizer, engine_of(model).groups[0]
    (consumer,), read, expected = group.consumers, [], torch.zeros(16)

    def record(module, inputs):
        if module.training and torch.is_grad_enabled():
            read.append(inputs[0].detach().mean(0))

    def average(*_):
        expected.lerp_(read[-1], 1 - SETTINGS["decay_rate"])

    consumer.register_forward_pre_hook(record)
    optimizer.register_step_pre_hook(average)
    model.learn(256)
    assert len(read) > engine_of(model).updates > 3
    assert_same(group.state.mean_feature, expected)


class EverySecondBatch(Regression):
    """Returns no loss for odd batches, which Lightning then skips."""

    def training_step(self, pair, index):
        loss = super().training_step(pair, index)
        return None if index % 2 else loss


@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")  # as in test_lightning
@pytest.mark.filterwarnings("ignore:.*training_step. returned .None")  # this is what the test does
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:GPU available but not used")
def test_batches_that_lightning_skips(tmp_path):
    module, run = fit(tmp_path, EverySecondBatch(cbp), 1, settings={})
    assert (run.global_step, module.engine.updates) == (12, 6)
    assert not module.engine.waiting
