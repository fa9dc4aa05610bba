"""TorchRL's losses with the units of their networks: PPO, DQN, and SAC, whose stacked critics are refused."""

from __future__ import annotations

import copy

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential
from torchrl.modules import MLP, ProbabilisticActor, QValueActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss, DQNLoss, REDQLoss, SACLoss, SoftUpdate
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


def train_dqn(loss, optimizer, steps):
    for _ in range(steps):
        data = transitions()
        data["action"] = torch.randint(2, (16,))
        optimizer.zero_grad()
        loss(data)["loss"].backward()
        optimizer.step()


def test_the_target_of_dqn_is_left_alone():
    torch.manual_seed(0)
    net = QValueActor(MLP(3, 2, num_cells=[16]), in_keys=["observation"], action_space="categorical")
    loss = DQNLoss(net, action_space="categorical", delay_value=True)
    SoftUpdate(loss, eps=0.99)
    optimizer = CBPAdam(list(loss.parameters()), lr=0.01, layers=units(loss), **SETTINGS)
    target = copy.deepcopy(loss.target_value_network_params.to_dict())
    train_dqn(loss, optimizer, 12)
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


@pytest.mark.parametrize("delay_value", [True, False])
def test_forwards_with_the_parameters_of_a_target_are_not_recorded(delay_value):
    torch.manual_seed(0)
    net = QValueActor(
        MLP(3, 2, num_cells=[16], activation_class=torch.nn.ReLU), in_keys=["observation"], action_space="categorical"
    )
    loss = DQNLoss(net, action_space="categorical", delay_value=delay_value)
    if delay_value:
        SoftUpdate(loss, eps=0.99)
    settings = {**SETTINGS, "replacement_rate": 0.0}
    optimizer = CBPAdam(list(loss.parameters()), lr=0.01, layers=units(loss), **settings)
    (group,) = optimizer.gnt.groups
    with torch.no_grad():
        group.incoming[0].module.bias[:4] = -100.0  # these units of the online network are silent
    train_dqn(loss, optimizer, 8)
    assert not group.state.utility[:4].any()
    assert group.state.utility[4:].any()
    assert group.state.updates == 8


def test_units_of_several_lists_in_one_network_have_different_names():
    torch.manual_seed(0)
    trunk = TensorDictModule(MLP(3, 8, num_cells=[6]), in_keys=["observation"], out_keys=["hidden"])
    head = QValueActor(MLP(8, 2, num_cells=[5]), in_keys=["hidden"], action_space="categorical")
    loss = DQNLoss(TensorDictSequential(trunk, head), action_space="categorical")
    found = [group.name for group in units(loss)]
    assert len(found) == len(set(found)) == 2


def test_the_actor_of_redq_is_refused_because_it_is_stacked_too():
    critic = ValueOperator(
        MLP(5, 1, num_cells=[16]), in_keys=["observation", "action"], out_keys=["state_action_value"]
    )
    loss = REDQLoss(actor(), critic, action_spec=None, target_entropy=-2.0)
    with pytest.raises(ValueError, match="actor_network of REDQLoss cannot be replaced: the weights of several"):
        units(loss, networks=["actor_network"])


def block(inputs, outputs):
    return torch.nn.Sequential(torch.nn.Linear(inputs, outputs), torch.nn.ReLU())


def head():
    return torch.nn.Sequential(block(16, 8), torch.nn.Linear(8, 2))


@pytest.mark.parametrize(
    "net",
    [
        torch.nn.Sequential(block(3, 16), head()),
        torch.nn.Sequential(MLP(3, 16, num_cells=[]), torch.nn.ReLU(), torch.nn.Sequential(head())),
        torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.ReLU(), head(), torch.nn.Identity()),
    ],
)
def test_nested_lists_are_opened(net):
    actor = QValueActor(net, in_keys=["observation"], action_space="categorical")
    groups = units(DQNLoss(actor, action_space="categorical"))
    assert [(group.name, group.num_units) for group in groups] == [("value_network.0", 16), ("value_network.2", 8)]
