"""Stable-Baselines3's off-policy learners DQN and SAC: target networks, and actor losses computed by the critics."""

from __future__ import annotations

import copy

import torch
from stable_baselines3 import DQN, SAC

from tests.helpers.small_runs import assert_same, replaced
from tests.integrations.sb3_helpers import SETTINGS, engine_of, found_by_the_policy


def sac(optimizer_settings=SETTINGS, **settings):
    """SAC with a training step after each step of the environment except the first 20."""
    kwargs = found_by_the_policy(settings=optimizer_settings, net_arch=[16])
    small = {"policy_kwargs": kwargs, "learning_starts": 20, "batch_size": 8, "device": "cpu", "seed": 0}
    return SAC("MlpPolicy", "Pendulum-v1", **small, **settings)


def test_units_of_the_online_network_are_replaced_and_the_target_is_unchanged(tmp_path):
    often = {"learning_starts": 20, "train_freq": 2, "target_update_interval": 10_000, "buffer_size": 500}
    kwargs = found_by_the_policy(net_arch=[16, 16])
    model = DQN("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, device="cpu", seed=0, **often)
    before = copy.deepcopy(dict(model.q_net_target.state_dict()))
    model.learn(120)
    engine = engine_of(model)
    assert engine.updates == model._n_updates == (120 - 20) // 2
    assert min(replaced(engine)) > 4
    assert_same(dict(model.q_net_target.state_dict()), before)
    assert not any(module._forward_pre_hooks for module in model.q_net_target.modules())
    model.save(tmp_path / "model")
    loaded = DQN.load(tmp_path / "model", device="cpu")
    assert_same(loaded.policy.optimizer.state_dict(), model.policy.optimizer.state_dict())


def test_the_critics_forwards_for_the_actors_loss_are_not_recorded():
    """SAC runs its critics twice in a training step: for their own loss, and for the actor's, whose gradients of the
    critics are discarded.
    """
    model = sac({**SETTINGS, "replacement_rate": 0.0})
    optimizer, (_, group) = model.policy.critic.optimizer, model.policy.critic.optimizer.gnt.groups
    (consumer,), read, expected = group.consumers, [], torch.zeros(16)
    consumer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].detach().mean(0)))

    def average(*_):
        expected.lerp_(read[-1], 1 - SETTINGS["decay_rate"])

    optimizer.register_step_pre_hook(average)
    model.learn(60)
    assert len(read) == 2 * optimizer.gnt.updates == 2 * 40
    torch.testing.assert_close(group.state.mean_feature, expected)


def test_units_of_actor_and_critics_are_replaced_and_targets_are_unchanged(tmp_path):
    model = sac(tau=1e-9)
    before = copy.deepcopy(dict(model.critic_target.state_dict()))
    model.learn(60)
    assert min(replaced(model.critic.optimizer.gnt) + replaced(model.actor.optimizer.gnt)) > 10
    assert [slot.name for slot in model.actor.optimizer.gnt.groups[0].outgoing] == ["mu", "log_std"]
    torch.testing.assert_close(dict(model.critic_target.state_dict()), before, rtol=0, atol=1e-6)
    model.save(tmp_path / "model")
    loaded = SAC.load(tmp_path / "model", device="cpu")
    for actual, expected in zip((loaded.actor, loaded.critic), (model.actor, model.critic), strict=True):
        assert_same(actual.optimizer.state_dict(), expected.optimizer.state_dict())
