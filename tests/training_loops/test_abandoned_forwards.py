"""Forwards that no backward follows are no part of an update: PPO's early stop, Lightning's skipped batches."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.small_runs import assert_same
from tests.integrations.sb3_helpers import SETTINGS, engine_of
from tests.integrations.test_lightning import Regression, cbp, fit
from tests.integrations.test_sb3 import ppo


def test_ppo_that_stops_early(monkeypatch):
    """SB3 runs the networks, finds that they moved too far, and goes on to the next rollout without a backward."""
    monkeypatch.setitem(SETTINGS, "replacement_rate", 0.0)
    model = ppo("CartPole-v1", target_kl=1e-9)
    optimizer, group = model.policy.optimizer, engine_of(model).groups[0]
    (reader,), read, expected = group.consumers, [], torch.zeros(16)

    def record(module, inputs):
        if module.training and torch.is_grad_enabled():
            read.append(inputs[0].detach().mean(0))

    def average(*_):
        expected.lerp_(read[-1], 1 - SETTINGS["decay_rate"])

    reader.register_forward_pre_hook(record)
    optimizer.register_step_pre_hook(average)
    model.learn(256)
    assert len(read) > engine_of(model).updates > 3
    assert_same(group.state.mean_feature, expected)


class Skipping(Regression):
    def training_step(self, pair, index):
        loss = super().training_step(pair, index)
        return None if index % 2 else loss


@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")  # as in test_lightning
@pytest.mark.filterwarnings("ignore:.*training_step. returned .None")  # that is what is tried
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:GPU available but not used")
def test_lightnings_skipped_batches(tmp_path):
    module, run = fit(tmp_path, Skipping(cbp), 1, settings={})
    assert (run.global_step, module.engine.updates) == (12, 6)
    assert not module.engine.waiting
