"""Stable-Baselines3: PPO and DQN whose policies build an optimizer with an engine, in its own training and files."""

from __future__ import annotations

import copy

import gymnasium
import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy

import gnt
from gnt.optim import CBPAdam
from tests.small_runs import assert_same, replaced

SETTINGS = {"eps": 1e-5, "replacement_rate": 0.05, "maturity_threshold": 3, "decay_rate": 0.9}
TASKS = ("CartPole-v1", "Pendulum-v1")  # discrete and continuous actions
EACH = pytest.mark.parametrize("task", TASKS)


def actor_and_critic(policy):
    """The units of PPO's two networks, by hand."""
    nets = policy.mlp_extractor
    return [*gnt.walk([*nets.policy_net, policy.action_net]), *gnt.walk([*nets.value_net, policy.value_net])]


class ContinualPolicy(ActorCriticPolicy):
    """PPO's policy, whose optimizer replaces units of actor and critic, too."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.optimizer = CBPAdam(self, lr=lr_schedule(1), layers=actor_and_critic(self), **SETTINGS)


class ContinualQ(DQNPolicy):
    """DQN's policy, whose optimizer replaces units of the online network."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.optimizer = CBPAdam(self.q_net, lr=lr_schedule(1), layers=self.q_net.q_net, **SETTINGS)


class ContinualCritics(SACPolicy):
    """SAC's policy, whose critics' optimizer replaces units of both of them."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        groups = [group for q in self.critic.q_networks for group in gnt.walk(q)]
        self.critic.optimizer = CBPAdam(self.critic, lr=lr_schedule(1), layers=groups, **SETTINGS)


def falling(remaining):
    """A learning rate as SB3 takes it: a function of the share of the run that remains."""
    return 3e-3 * remaining


def ppo(task, policy=ContinualPolicy, **settings):
    """PPO with 2 epochs of 2 minibatches for every 64 steps of the environment."""
    small = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "learning_rate": falling, "device": "cpu", "seed": 0}
    return PPO(policy, task, **{"policy_kwargs": {"net_arch": [16, 16]}, **small, **settings})


def sac(**settings):
    """SAC with a round of learning after each step of the environment but the first 20."""
    small = {"policy_kwargs": {"net_arch": [16]}, "learning_starts": 20, "batch_size": 8, "device": "cpu", "seed": 0}
    return SAC(ContinualCritics, "Pendulum-v1", **small, **settings)


def engine_of(model):
    return model.policy.optimizer.gnt


def state(model):
    """Everything that learning changed."""
    return copy.deepcopy([dict(model.policy.state_dict()), model.policy.optimizer.state_dict()])


@EACH
def test_ages_are_optimizer_steps_and_units_are_replaced(task):
    model, rates = ppo(task), []
    engine, optimizer = engine_of(model), model.policy.optimizer
    optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
    model.learn(256)
    assert [group.num_units for group in engine.groups] == [16] * 4
    assert engine.updates == len(rates) == 256 // 64 * 2 * 2
    assert rates == [falling(remaining) for remaining in (0.75, 0.5, 0.25, 0.0) for _ in range(4)]
    assert min(replaced(engine)) > 4
    assert not engine.waiting


class Looker(BaseCallback):
    """Runs the policy in every way that is no learning, after each step of the environment."""

    looks = 0

    def _on_step(self):
        policy, observation = self.model.policy, self.model._last_obs
        self.model.predict(observation, deterministic=True)
        policy.set_training_mode(True)
        with torch.no_grad():
            policy(policy.obs_to_tensor(observation)[0], deterministic=True)
        policy.set_training_mode(False)
        policy.predict_values(policy.obs_to_tensor(observation)[0])  # with gradients
        self.looks += 1
        return True


@EACH
def test_rollouts_leave_no_trace(task):
    looker = Looker()
    watched = ppo(task).learn(128, callback=looker)
    assert looker.looks == 128
    assert_same(state(watched), state(ppo(task).learn(128)))


def go_on(model):
    """The same 128 steps of the environment, whatever the model lived through before."""
    model.set_random_seed(3)
    model._last_obs = None
    model.learn(128, reset_num_timesteps=False)
    return state(model)


@EACH
def test_a_saved_model_goes_on_bit_for_bit(task, tmp_path):
    model = ppo(task).learn(128)
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", env=gymnasium.make(task), device="cpu")
    assert_same(state(loaded), state(model))
    torch.manual_seed(9)
    assert_same(go_on(loaded), go_on(model))
    assert engine_of(loaded).updates == 16


def attached(seed=0):
    """Without a policy of one's own: SB3 makes the optimizer, the engine is attached to it."""
    kwargs = {"net_arch": [16, 16], "optimizer_class": gnt.AdamGnT, "optimizer_kwargs": {"eps": SETTINGS["eps"]}}
    model = ppo("CartPole-v1", "MlpPolicy", policy_kwargs=kwargs, seed=seed)
    settings = {name: value for name, value in SETTINGS.items() if name != "eps"}
    return model, gnt.GnT(actor_and_critic(model.policy), model.policy.optimizer, **settings).attach()


def test_an_attached_engine_does_the_same_and_its_parameters_can_be_set_again(tmp_path):
    model, engine = attached()
    model.learn(128)
    assert_same(state(model), state(ppo("CartPole-v1").learn(128)))
    model.save(tmp_path / "model")
    other, its = attached(seed=7)
    other.set_parameters(tmp_path / "model", device="cpu")
    other.num_timesteps = model.num_timesteps  # what SB3 does not count as a parameter; its schedules go by it
    assert_same([state(other), its.state_dict()], [state(model), engine.state_dict()])
    assert_same(go_on(other), go_on(model))


def test_an_online_network_learns_and_its_target_is_left_alone(tmp_path):
    often = {"learning_starts": 20, "train_freq": 2, "target_update_interval": 10_000, "buffer_size": 500}
    model = DQN(ContinualQ, "CartPole-v1", policy_kwargs={"net_arch": [16, 16]}, device="cpu", seed=0, **often)
    before = copy.deepcopy(dict(model.q_net_target.state_dict()))
    model.learn(120)
    engine = engine_of(model)
    assert engine.updates == model._n_updates == (120 - 20) // 2
    assert min(replaced(engine)) > 4
    assert_same(dict(model.q_net_target.state_dict()), before)
    assert not any(module._forward_pre_hooks for module in model.q_net_target.modules())
    model.save(tmp_path / "model")
    loaded = DQN.load(tmp_path / "model", device="cpu")
    assert_same(state(loaded), state(model))


def test_an_actors_forwards_through_the_critics_are_not_the_critics_own(monkeypatch):
    """SAC runs its critics twice in a round: for their own loss, and for the actor's, whose gradients they give up."""
    monkeypatch.setitem(SETTINGS, "replacement_rate", 0.0)
    model = sac()
    optimizer, (_, group) = model.policy.critic.optimizer, model.policy.critic.optimizer.gnt.groups
    (reader,), read, expected = group.consumers, [], torch.zeros(16)
    reader.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].detach().mean(0)))

    def average(*_):
        expected.lerp_(read[-1], 1 - SETTINGS["decay_rate"])

    optimizer.register_step_pre_hook(average)
    model.learn(60)
    assert len(read) == 2 * optimizer.gnt.updates == 2 * 40
    assert_same(group.state.mean_feature, expected)


def test_units_of_the_critics_are_replaced_and_their_targets_left_alone(tmp_path):
    model = sac(tau=1e-9)
    before = copy.deepcopy(dict(model.critic_target.state_dict()))
    model.learn(60)
    assert min(replaced(model.critic.optimizer.gnt)) > 10
    torch.testing.assert_close(dict(model.critic_target.state_dict()), before, rtol=0, atol=1e-6)
    model.save(tmp_path / "model")
    loaded = SAC.load(tmp_path / "model", device="cpu")
    assert_same(loaded.critic.optimizer.state_dict(), model.critic.optimizer.state_dict())
