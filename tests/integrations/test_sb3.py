"""Stable-Baselines3's PPO with an engine in the policy's optimizer: training, schedules, saving and loading."""

from __future__ import annotations

import copy

import gymnasium
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

import gnt
from gnt.integrations import stable_baselines3 as adapters
from gnt.optim import CBPAdam
from tests.helpers.small_runs import assert_same, replaced
from tests.integrations.sb3_helpers import SETTINGS, engine_of, found_by_the_policy

TASKS = ("CartPole-v1", "Pendulum-v1")  # discrete and continuous actions
EACH = pytest.mark.parametrize("task", TASKS)


def actor_and_critic(policy):
    """The unit groups of PPO's two networks, listed explicitly."""
    nets = policy.mlp_extractor
    return [*gnt.walk([*nets.policy_net, policy.action_net]), *gnt.walk([*nets.value_net, policy.value_net])]


class ContinualPolicy(ActorCriticPolicy):
    """PPO's policy with an optimizer that replaces units of actor and critic."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.optimizer = CBPAdam(self, lr=lr_schedule(1), layers=actor_and_critic(self), **SETTINGS)


class Trunk(BaseFeaturesExtractor):
    """A layer shared by actor and critic."""

    def __init__(self, space):
        super().__init__(space, features_dim=12)
        self.fc = torch.nn.Linear(space.shape[0], 12)

    def forward(self, seen):
        return torch.relu(self.fc(seen))


def decreasing_rate(remaining):
    """A learning rate schedule of SB3: a function of the remaining fraction of the run."""
    return 3e-3 * remaining


def ppo(task, policy=ContinualPolicy, **settings):
    """PPO with 2 epochs of 2 minibatches for every 64 steps of the environment."""
    small = {
        "n_steps": 64,
        "batch_size": 32,
        "n_epochs": 2,
        "learning_rate": decreasing_rate,
        "device": "cpu",
        "seed": 0,
    }
    return PPO(policy, task, **{"policy_kwargs": {"net_arch": [16, 16]}, **small, **settings})


def state(model):
    """Copies of everything that training changes."""
    return copy.deepcopy([dict(model.policy.state_dict()), model.policy.optimizer.state_dict()])


@EACH
def test_ages_are_optimizer_steps_and_units_are_replaced(task):
    model, rates = ppo(task), []
    engine, optimizer = engine_of(model), model.policy.optimizer
    optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
    model.learn(256)
    assert [group.num_units for group in engine.groups] == [16] * 4
    assert engine.updates == len(rates) == 256 // 64 * 2 * 2
    assert rates == [decreasing_rate(remaining) for remaining in (0.75, 0.5, 0.25, 0.0) for _ in range(4)]
    assert min(replaced(engine)) > 4
    assert not engine.waiting


def test_units_that_the_optimizer_finds_equal_listed_ones():
    kwargs = found_by_the_policy(net_arch=[16, 16])
    traced = state(ppo("Pendulum-v1", "MlpPolicy", policy_kwargs=kwargs).learn(128))
    listed = state(ppo("Pendulum-v1").learn(128))
    names = ["mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2"]
    assert [group.pop("name") for group in traced[1]["gnt"]["groups"]][:2] == names
    assert [group.pop("name") for group in listed[1]["gnt"]["groups"]][:2] == ["0", "2"]
    assert_same(traced, listed)


def test_a_shared_layer_has_two_consumers(tmp_path):
    kwargs = found_by_the_policy(net_arch={"pi": [8], "vf": [10]}, features_extractor_class=Trunk)
    model = ppo("CartPole-v1", "MlpPolicy", policy_kwargs=kwargs).learn(128)
    assert type(model.policy.optimizer) is adapters.CBPAdam
    groups = {group.name: [slot.name for slot in group.outgoing] for group in engine_of(model).groups}
    consumers = ["mlp_extractor.policy_net.0", "mlp_extractor.value_net.0"]
    assert groups["features_extractor.fc"] in (consumers, consumers[::-1])
    assert list(map(len, groups.values())) == [2, 1, 1]
    assert min(replaced(engine_of(model))) > 0
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", env=gymnasium.make("CartPole-v1"), device="cpu")
    assert_same(continue_training(loaded), continue_training(model))


class ForwardCallback(BaseCallback):
    """Runs the policy in every way other than training, after each step of the environment."""

    calls = 0

    def _on_step(self):
        policy, observation = self.model.policy, self.model._last_obs
        self.model.predict(observation, deterministic=True)
        policy.set_training_mode(True)
        with torch.no_grad():
            policy(policy.obs_to_tensor(observation)[0], deterministic=True)
        policy.set_training_mode(False)
        policy.predict_values(policy.obs_to_tensor(observation)[0])  # with gradients
        self.calls += 1
        return True


@EACH
def test_other_forwards_do_not_affect_training(task):
    callback = ForwardCallback()
    model = ppo(task).learn(128, callback=callback)
    assert callback.calls == 128
    assert_same(state(model), state(ppo(task).learn(128)))


def continue_training(model):
    """Train on 128 steps of the environment that do not depend on earlier ones."""
    model.set_random_seed(3)
    model._last_obs = None
    model.learn(128, reset_num_timesteps=False)
    return state(model)


@EACH
def test_training_resumes_bit_for_bit_from_a_saved_model(task, tmp_path):
    model = ppo(task).learn(128)
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", env=gymnasium.make(task), device="cpu")
    assert_same(state(loaded), state(model))
    torch.manual_seed(9)
    assert_same(continue_training(loaded), continue_training(model))
    assert engine_of(loaded).updates == 16


def attached(seed=0):
    """A model with SB3's own policy and an engine attached to the optimizer that SB3 built."""
    kwargs = {"net_arch": [16, 16], "optimizer_class": gnt.AdamGnT, "optimizer_kwargs": {"eps": SETTINGS["eps"]}}
    model = ppo("CartPole-v1", "MlpPolicy", policy_kwargs=kwargs, seed=seed)
    settings = {name: value for name, value in SETTINGS.items() if name != "eps"}
    return model, gnt.GnT(actor_and_critic(model.policy), model.policy.optimizer, **settings).attach()


def test_an_attached_engine_equals_an_optimizers_own_and_can_be_loaded_with_set_parameters(tmp_path):
    model, engine = attached()
    model.learn(128)
    assert_same(state(model), state(ppo("CartPole-v1").learn(128)))
    model.save(tmp_path / "model")
    loaded, loaded_engine = attached(seed=7)
    loaded.set_parameters(tmp_path / "model", device="cpu")
    loaded.num_timesteps = model.num_timesteps  # schedules depend on it, and set_parameters does not load it
    assert_same([state(loaded), loaded_engine.state_dict()], [state(model), engine.state_dict()])
    assert_same(continue_training(loaded), continue_training(model))
