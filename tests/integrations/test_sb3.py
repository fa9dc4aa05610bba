"""Stable-Baselines3's PPO, whose policy builds an optimizer with an engine: its own training, schedules and files."""

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
from gnt.optim import CBPAdam
from tests.helpers.small_runs import assert_same, replaced
from tests.integrations.sb3_helpers import SETTINGS, engine_of, example

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


class TracedPolicy(ActorCriticPolicy):
    """PPO's policy, whatever its networks: what is to be replaced is found in it."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.optimizer = CBPAdam(self, lr_schedule(1), example_inputs=example(self.observation_space), **SETTINGS)


class Trunk(BaseFeaturesExtractor):
    """A layer that actor and critic share."""

    def __init__(self, space):
        super().__init__(space, features_dim=12)
        self.fc = torch.nn.Linear(space.shape[0], 12)

    def forward(self, seen):
        return torch.relu(self.fc(seen))


def falling(remaining):
    """A learning rate as SB3 takes it: a function of the share of the run that remains."""
    return 3e-3 * remaining


def ppo(task, policy=ContinualPolicy, **settings):
    """PPO with 2 epochs of 2 minibatches for every 64 steps of the environment."""
    small = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "learning_rate": falling, "device": "cpu", "seed": 0}
    return PPO(policy, task, **{"policy_kwargs": {"net_arch": [16, 16]}, **small, **settings})


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


def test_traced_units_are_those_by_hand():
    traced, by_hand = (state(ppo("Pendulum-v1", policy).learn(128)) for policy in (TracedPolicy, ContinualPolicy))
    names = ["mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2"]
    assert [group.pop("name") for group in traced[1]["gnt"]["groups"]][:2] == names
    assert [group.pop("name") for group in by_hand[1]["gnt"]["groups"]][:2] == ["0", "2"]
    assert_same(traced, by_hand)


def test_a_trunk_has_two_readers(tmp_path):
    kwargs = {"net_arch": {"pi": [8], "vf": [10]}, "features_extractor_class": Trunk}
    model = ppo("CartPole-v1", TracedPolicy, policy_kwargs=kwargs).learn(128)
    groups = {group.name: [slot.name for slot in group.outgoing] for group in engine_of(model).groups}
    readers = ["mlp_extractor.policy_net.0", "mlp_extractor.value_net.0"]
    assert groups["features_extractor.fc"] in (readers, readers[::-1])
    assert list(map(len, groups.values())) == [2, 1, 1]
    assert min(replaced(engine_of(model))) > 0
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", env=gymnasium.make("CartPole-v1"), device="cpu")
    assert_same(go_on(loaded), go_on(model))


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
