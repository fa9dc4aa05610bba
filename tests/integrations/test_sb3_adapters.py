"""The adapters for Stable-Baselines3: optimizers that find the units of a policy, and the callback that logs them."""

from __future__ import annotations

import csv

import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import gnt
from gnt.integrations.stable_baselines3 import CBPSGD, CBPAdam, CBPAdamW, LogUnits
from tests.helpers.small_runs import assert_same
from tests.integrations.sb3_helpers import SETTINGS, engine_of, found_by_the_policy

BOX, ACTION = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))


def names(optimizer):
    return [group.name for group in optimizer.gnt.groups]


def policy(optimizer=CBPAdam, observation=BOX, kind=ActorCriticPolicy, settings=SETTINGS, **kwargs):
    arguments = found_by_the_policy(optimizer, settings, **{"net_arch": [8], **kwargs})
    return kind(observation, ACTION, lambda _: 0.01, **arguments)


class Extractor(BaseFeaturesExtractor):
    """Two layers: the units of the first are read by the second, those of the second by actor and critic."""

    def __init__(self, space):
        super().__init__(space, features_dim=6)
        self.fc1, self.fc2 = torch.nn.Linear(space.shape[0], 5), torch.nn.Linear(5, 6)

    def forward(self, seen):
        return torch.relu(self.fc2(torch.relu(self.fc1(seen))))


def learned(callback=None, logger=None):
    settings = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "device": "cpu", "seed": 0}
    kwargs = found_by_the_policy(net_arch=[8], activation_fn=torch.nn.ReLU)
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, **settings)
    if logger is not None:
        model.set_logger(logger)
    return model.learn(96, callback=callback, log_interval=1)


def test_figures_of_the_units_are_logged_and_training_is_unchanged(tmp_path):
    log = LogUnits(every=40)
    model = learned(log, configure(str(tmp_path), ["csv", "tensorboard", "log"]))
    model.logger.close()
    plain = learned()
    assert_same(model.policy.optimizer.state_dict(), plain.policy.optimizer.state_dict())
    assert_same(dict(model.policy.state_dict()), dict(plain.policy.state_dict()))
    figures = engine_of(model).figures()
    assert {name: value for name, value in log.figures.items() if name.count("/") > 1} == {
        f"gnt/{name}": value for name, value in figures.items()
    }
    for name in ("replaced", "dead"):
        assert log.figures[f"gnt/{name}"] == sum(figures[f"{group.name}/{name}"] for group in engine_of(model).groups)
    assert log.figures["gnt/replaced"] > 0

    rows = list(csv.DictReader((tmp_path / "progress.csv").read_text().splitlines()))
    column = "gnt/mlp_extractor.policy_net.0/age"
    # four updates after each rollout of 32 steps; read at the first end of a rollout, and of those after 40 more steps
    assert [(row["time/total_timesteps"], row[column]) for row in rows] == [
        ("32", "0.0"),
        ("64", ""),
        ("96", rows[2][column]),
    ]
    written = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in written.Scalars("gnt/replaced")] == [32, 96]
    assert [event.value for event in written.Scalars(column)] == pytest.approx([0.0, float(rows[2][column])])
    table = (tmp_path / "log.txt").read_text()
    assert "replaced" in table
    assert "mlp_extractor" not in table  # names are cut there


def test_an_attached_engine_can_be_logged():
    small = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "device": "cpu"}
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}, **small)
    with pytest.raises(ValueError, match=r"LogUnits found no engine: construct the model with policy_kwargs=dict"):
        model.learn(32, callback=LogUnits())
    assert model.num_timesteps == 0
    nets = model.policy.mlp_extractor
    engine = gnt.GnT([*nets.policy_net, model.policy.action_net], model.policy.optimizer, replacement_rate=0.1).attach()
    log = LogUnits(engine)
    model.learn(64, callback=log)
    assert log.figures["gnt/0/age"] == 2.0


def test_each_network_with_an_optimizer_has_an_engine_and_names_its_layers(tmp_path):
    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=found_by_the_policy(net_arch=[8]), device="cpu")
    actor, critic = model.actor.optimizer, model.critic.optimizer
    assert (names(actor), names(critic)) == (["latent_pi.0"], ["qf0.0", "qf1.0"])
    log = LogUnits()
    log.init_callback(model)
    assert list(log._engines) == ["actor.", "critic."]
    assert model.critic_target not in [slot.module for group in critic.gnt.groups for slot in group.slots]


def test_a_features_extractor_that_actor_and_critic_share_is_left_out():
    shared = policy(kind=SACPolicy, features_extractor_class=Extractor, share_features_extractor=True)
    assert names(shared.actor.optimizer) == ["latent_pi.0"]
    assert [item.name for item in shared.actor.optimizer.gnt.refused if "actor and critic share" in item.reason] == [
        "features_extractor.fc1",
        "features_extractor.fc2",
    ]
    assert names(shared.critic.optimizer) == ["qf0.0", "qf1.0"]
    own = policy(kind=SACPolicy, features_extractor_class=Extractor)
    assert names(own.actor.optimizer) == ["features_extractor.fc1", "features_extractor.fc2", "latent_pi.0"]


def test_observations_may_be_images_and_dicts():
    image = spaces.Box(0, 255, (1, 36, 36), "uint8")
    seen = policy(observation=image, features_extractor_class=NatureCNN, net_arch=[])
    assert len(names(seen.optimizer)) == 4
    several = policy(observation=spaces.Dict({"a": BOX, "b": spaces.Discrete(3)}), kind=MultiInputActorCriticPolicy)
    assert names(several.optimizer) == ["mlp_extractor.policy_net.0", "mlp_extractor.value_net.0"]


def test_settings_reach_engine_and_optimizer():
    for kind, base in ((CBPSGD, gnt.optim.CBPSGD), (CBPAdam, gnt.optim.CBPAdam), (CBPAdamW, gnt.optim.CBPAdamW)):
        optimizer = policy(kind, settings={"replacement_rate": 0.5, "exclude": "*value_net*"}).optimizer
        assert isinstance(optimizer, base)
        assert optimizer.gnt.replacement_rate == 0.5
        assert names(optimizer) == ["mlp_extractor.policy_net.0"]
        assert optimizer.param_groups[0].get("eps", 1e-5) == 1e-5  # as for torch's Adam in PPO
    chosen = policy(settings={"layers": lambda policy: [*policy.mlp_extractor.value_net, policy.value_net], "eps": 0.1})
    assert names(chosen.optimizer) == ["0"]
    assert chosen.optimizer.param_groups[0]["eps"] == 0.1
    assert policy(kind=SACPolicy, settings={}).actor.optimizer.param_groups[0]["eps"] == 1e-8


def test_finding_the_units_draws_nothing_from_the_spaces():
    space = spaces.Box(-1, 1, (3,), seed=4)
    torch.manual_seed(0)
    policy(observation=space, kind=SACPolicy)
    assert (space.sample() == spaces.Box(-1, 1, (3,), seed=4).sample()).all()


def test_wrong_use_says_what_to_do():
    net = torch.nn.Linear(3, 2)
    with pytest.raises(
        TypeError, match=r"pass policy_kwargs=dict\(optimizer_class=CBPAdam.*elsewhere use gnt.optim.CBPAdam"
    ):
        CBPAdam(net.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"in Stable-Baselines3 .*gnt.integrations.stable_baselines3.CBPAdam"):
        policy(gnt.optim.CBPAdam, settings={})
    with pytest.raises(TypeError, match="unknown setting replacment_rate"):
        policy(settings={"replacment_rate": 0.1})
    with pytest.raises(
        ValueError, match=r"include pattern 'actor' matches nothing; groups are mlp_extractor\.policy_net\.0"
    ):
        policy(settings={"include": "actor"})
    with pytest.raises(TypeError, match="include and exclude would be ignored"):
        policy(settings={"include": "a", "layers": list})
    with pytest.raises(TypeError, match=r"LogUnits takes engines \(gnt.GnT\), got Linear"):
        LogUnits(net)
    with pytest.raises(ValueError, match="every must be an integer >= 1, got 0"):
        LogUnits(every=0)


def test_an_engine_that_is_given_is_logged_beside_that_of_the_policy():
    small = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "device": "cpu"}
    kwargs = found_by_the_policy(net_arch=[8])
    kwargs["optimizer_kwargs"]["include"] = "*policy_net*"
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, **small)
    layers = [*model.policy.mlp_extractor.value_net, model.policy.value_net]
    engine = gnt.GnT(layers, model.policy.optimizer, replacement_rate=0.0).attach()
    log = LogUnits(engine)
    model.learn(64, callback=log)
    assert {"gnt/mlp_extractor.policy_net.0/age", "gnt/0.0/age"} <= log.figures.keys()


@pytest.mark.parametrize("kind", [SACPolicy, TD3Policy])
def test_actions_may_have_several_dimensions(kind):
    made = kind(BOX, spaces.Box(-2, 5, (2, 1)), lambda _: 0.01, **found_by_the_policy(net_arch=[8]))
    assert names(made.critic.optimizer) == ["qf0.0", "qf1.0"]
