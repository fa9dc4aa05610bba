"""TorchRL's losses with the units of their networks: PPO, DQN, and SAC, whose stacked critics are refused."""

from __future__ import annotations

import copy

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torchrl.modules import MLP, ProbabilisticActor, QValueActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss, DQNLoss, SACLoss, SoftUpdate
from torchrl.objectives.value import GAE

import gnt
from gnt.integrations.torchrl import units
from gnt.optim import CBPAdam
from tests.helpers.small_runs import assert_same, replaced

SETTINGS = {"replacement_rate": 0.1, "maturity_threshold": 2, "decay_rate": 0.9}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def actor():
    net = torch.nn.Sequential(MLP(3, 2, num_cells=[16, 16]), NormalParamExtractor())
    module = TensorDictModule(net, in_keys=["observation"], out_keys=["loc", "scale"])
    keys = {"in_keys": ["loc", "scale"], "distribution_class": TanhNormal, "return_log_prob": True}
    return ProbabilisticActor(module, **keys)


def ppo(seed=0):
    torch.manual_seed(seed)
    policy, value = actor(), ValueOperator(MLP(3, 1, num_cells=[16]), in_keys=["observation"])
    return ClipPPOLoss(policy, value), GAE(gamma=0.9, lmbda=0.9, value_network=value)


def transitions(loss_actor=None, n=16):
    observations = torch.randn(n + 1, 3)
    data = TensorDict({"observation": observations[:-1]}, [n])
    ends = {"done": torch.zeros(n, 1, dtype=torch.bool), "terminated": torch.zeros(n, 1, dtype=torch.bool)}
    data["next"] = TensorDict({"observation": observations[1:], "reward": torch.randn(n, 1), **ends}, [n])
    return data


def train(loss, advantage, optimizer, steps):
    for seed in steps:
        torch.manual_seed(seed)
        data = transitions()
        with torch.no_grad():
            loss.actor_network(data)
        advantage(data)
        values = loss(data)
        optimizer.zero_grad()
        sum(value for name, value in values.items() if name.startswith("loss_")).backward()
        optimizer.step()


def test_units_of_actor_and_critic_are_replaced_and_a_saved_run_continues_bit_for_bit():
    loss, advantage = ppo()
    names = ["actor_network.0", "actor_network.2", "critic_network.0"]
    optimizer = CBPAdam(list(loss.parameters()), lr=0.01, layers=units(loss), **SETTINGS)
    assert [group.name for group in optimizer.gnt.groups] == names
    train(loss, advantage, optimizer, range(6))
    saved = copy.deepcopy([loss.state_dict(), optimizer.state_dict()])
    train(loss, advantage, optimizer, range(6, 12))
    assert optimizer.gnt.updates == 12
    assert [group.state.age.max() for group in optimizer.gnt.groups] == [12] * 3
    assert min(replaced(optimizer.gnt)) > 4

    other, other_advantage = ppo(seed=1)
    resumed = CBPAdam(list(other.parameters()), lr=0.01, layers=units(other), **SETTINGS)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    train(other, other_advantage, resumed, range(6, 12))
    assert_same(resumed.state_dict(), optimizer.state_dict())
    assert_same([p.detach() for p in other.parameters()], [p.detach() for p in loss.parameters()])


def test_walked_layers_do_the_same():
    runs = []
    for find in (units, lambda loss: [*gnt.walk(mlp(loss.actor_network)), *gnt.walk(mlp(loss.critic_network))]):
        loss, advantage = ppo()
        optimizer = CBPAdam(list(loss.parameters()), lr=0.01, layers=find(loss), **SETTINGS)
        train(loss, advantage, optimizer, range(6))
        state = optimizer.state_dict()
        for group in state["gnt"]["groups"]:
            group.pop("name")
        runs.append(state)
    assert_same(*runs)


def mlp(network):
    return next(module for module in network.modules() if isinstance(module, MLP))


def test_the_target_of_dqn_is_left_alone():
    torch.manual_seed(0)
    net = QValueActor(MLP(3, 2, num_cells=[16]), in_keys=["observation"], action_space="categorical")
    loss = DQNLoss(net, action_space="categorical", delay_value=True)
    SoftUpdate(loss, eps=0.99)
    optimizer = CBPAdam(list(loss.parameters()), lr=0.01, layers=units(loss), **SETTINGS)
    target = copy.deepcopy(loss.target_value_network_params.to_dict())
    for _ in range(12):
        data = transitions()
        data["action"] = torch.randint(2, (16,))
        optimizer.zero_grad()
        loss(data)["loss"].backward()
        optimizer.step()
    assert optimizer.gnt.groups[0].state.replaced > 4
    assert optimizer.gnt.groups[0].state.age.max() == 12
    assert_same(loss.target_value_network_params.to_dict(), target)


def sac():
    torch.manual_seed(0)
    critic = ValueOperator(
        MLP(5, 1, num_cells=[16]), in_keys=["observation", "action"], out_keys=["state_action_value"]
    )
    policy = actor()
    return SACLoss(policy, critic, action_spec=None, target_entropy=-2.0), critic


def test_stacked_critics_are_refused_and_the_actor_is_not():
    loss, critic = sac()
    with pytest.raises(
        ValueError, match=r"qvalue_network of SACLoss cannot be replaced: .* networks=\['actor_network'\]"
    ):
        units(loss)
    optimizer = CBPAdam(list(loss.parameters()), layers=units(loss, networks=["actor_network"]), **SETTINGS)
    assert len(optimizer.gnt.groups) == 2
    with pytest.raises(ValueError, match="optimizer"):
        CBPAdam(list(loss.parameters()), layers=gnt.walk(critic.module))


def test_wrong_use_is_an_error():
    loss, _ = ppo()
    with pytest.raises(TypeError, match="loss must be a LossModule of TorchRL, got Linear"):
        units(torch.nn.Linear(2, 2))
    with pytest.raises(
        ValueError, match="ClipPPOLoss has no network actor; networks are actor_network, critic_network"
    ):
        units(loss, networks="actor")
