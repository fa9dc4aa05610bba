"""The fixed observations on which the networks' units are measured. (On-policy observations would change with the
policy.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gnt.metrics import Probe

from ..seeds import stream
from .environment import SlipperyAnt
from .ppo import Agent


class PolicyAndValue(nn.Module):
    """Policy and value networks as one module, so that one probe measures both."""

    def __init__(self, networks: dict[str, nn.Sequential]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)

    def forward(self, observations: Tensor) -> tuple[Tensor, ...]:
        """The outputs of both networks."""
        return tuple(net(observations) for net in self.networks.values())


def make_probe(agent: Agent, ant: SlipperyAnt, seed: int, steps: int) -> Probe:
    """A probe of the hidden layers of both networks on ``steps`` observations of a random policy."""
    return Probe(PolicyAndValue(agent.networks), agent.groups, random_policy_observations(ant, seed, steps))


def random_policy_observations(ant: SlipperyAnt, seed: int, steps: int) -> Tensor:
    """Observations of a policy with uniform actions: (steps, numbers)."""
    shape = ant.action_space.shape
    assert shape is not None  # it is that of an array
    actions = 2 * torch.rand(steps, *shape, generator=stream(seed, "random policy")) - 1
    observations = [ant.reset()[0]]
    for action in actions[1:]:
        observation, _, fallen, out_of_time, _ = ant.step(action.numpy())
        observations.append(ant.reset()[0] if fallen or out_of_time else observation)
    return torch.stack([torch.from_numpy(each) for each in observations]).float()
