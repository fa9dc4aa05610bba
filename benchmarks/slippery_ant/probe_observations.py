"""The fixed batch on which an agent's networks are looked at: what on-policy batches show changes with the policy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.seeds import stream
from benchmarks.slippery_ant.environment import SlipperyAnt
from benchmarks.slippery_ant.ppo import Agent
from gnt.metrics import Probe


class PolicyAndValue(nn.Module):
    """Policy and value as one module, for one look at both."""

    def __init__(self, networks: dict[str, nn.Sequential]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)

    def forward(self, seen: Tensor) -> tuple[Tensor, ...]:
        """What each makes of it."""
        return tuple(net(seen) for net in self.networks.values())


def make_probe(agent: Agent, ant: SlipperyAnt, seed: int, steps: int) -> Probe:
    """Looks at the hidden layers of both networks on what a random policy sees in ``steps`` steps of ``ant``."""
    return Probe(PolicyAndValue(agent.networks), agent.groups, random_policy_observations(ant, seed, steps))


def random_policy_observations(ant: SlipperyAnt, seed: int, steps: int) -> Tensor:
    """What a policy of uniform actions sees: (steps, numbers)."""
    actions = 2 * torch.rand(steps, *ant.action_space.shape, generator=stream(seed, "random policy")) - 1
    seen = [ant.reset()[0]]
    for action in actions[1:]:
        observation, _, fallen, out_of_time, _ = ant.step(action.numpy())
        seen.append(ant.reset()[0] if fallen or out_of_time else observation)
    return torch.stack([torch.from_numpy(each) for each in seen]).float()
