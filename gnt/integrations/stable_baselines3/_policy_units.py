"""Which network of a Stable-Baselines3 policy an optimizer is constructed for, and the units of this network."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from stable_baselines3.common.policies import BaseModel

from gnt.units import Groups, Refused, TraceError, trace

Patterns = str | Sequence[str] | None


def network_of(parameters: Iterable[Any], kind: str) -> tuple[BaseModel, BaseModel]:
    """The policy whose method constructs the optimizer, and its network with these parameters.

    Stable-Baselines3 passes parameters only, so the policy is looked up among the callers: it is the first one that
    holds all parameters. Of the policy and the networks in it, the smallest that holds them is taken, and the innermost
    if several are equally small: a policy of SAC consists of the actor alone when the actor's optimizer is constructed.

    Args:
        parameters: tensors or parameter groups, as optimizers take them.
        kind: the class name of the optimizer, for errors.

    Raises:
        TypeError: no policy constructs this optimizer.
    """
    tensors = [each for item in parameters for each in (item["params"] if isinstance(item, dict) else [item])]
    wanted = {id(each) for each in tensors}
    frame = sys._getframe(1)
    while frame is not None:
        policy = frame.f_locals.get("self")
        if isinstance(policy, BaseModel) and (networks := _holding(policy, wanted)):
            return policy, min(reversed(networks), key=lambda network: len(list(network.parameters())))
        frame = frame.f_back  # type: ignore[assignment]
    raise TypeError(
        f"{kind} of gnt.integrations.stable_baselines3 finds the units of the policy that constructs it: pass "
        f"policy_kwargs=dict(optimizer_class={kind}, optimizer_kwargs=dict(...)) to PPO, DQN, SAC, ...; elsewhere use "
        f"gnt.optim.{kind}(net, lr=...)"
    )


def _holding(policy: BaseModel, wanted: set[int]) -> list[BaseModel]:
    """The policy and the networks in it that hold all these parameters."""
    networks = (each for each in policy.modules() if isinstance(each, BaseModel))
    return [each for each in networks if wanted <= {id(parameter) for parameter in each.parameters()}]


def units_of(policy: BaseModel, network: BaseModel, include: Patterns, exclude: Patterns) -> Groups:
    """The units of a policy or of one of its networks, found by a forward on sampled observations.

    A features extractor that actor and critic of SAC, TD3 or DDPG share is left out: both read its units, and each has
    an optimizer of its own.

    Raises:
        TraceError: there are none, or the forward cannot be traced.
        ValueError: a pattern that matches nothing.
    """
    groups = trace(network, *_example(network), include=include, exclude=exclude)
    if network is policy or not getattr(policy, "share_features_extractor", False):
        return groups
    extractor = {id(module) for module in network.features_extractor.modules()}  # type: ignore[union-attr]
    shared = [group for group in groups if any(id(slot.module) in extractor for slot in group.incoming)]
    reason = "in a features extractor that actor and critic share, which have an optimizer each"
    kept = [group for group in groups if group not in shared]
    if not kept:
        raise TraceError(f"no units of {type(network).__name__} can be replaced: all are {reason}")
    refused = [Refused(group.name, group.num_units, reason) for group in shared]
    return Groups.of(kept, (*groups.refused, *refused), groups.notes)


def _example(network: BaseModel) -> list[Any]:
    """Inputs of a forward: two observations, and two actions for critics that take them."""
    observations = _samples(network.observation_space)
    inputs = [network.obs_to_tensor(observations)[0]]
    arguments = inspect.signature(network.forward).parameters
    if "actions" in arguments or "action" in arguments:
        actions = torch.as_tensor(_samples(network.action_space), device=network.device)
        inputs.append(actions.reshape(len(actions), -1))  # as the replay buffer returns them
    return inputs


def _samples(space: Space[Any]) -> Any:
    """Two samples; the space's own generator is left alone."""
    space = copy.deepcopy(space)
    space.seed(0)
    samples = [space.sample() for _ in range(2)]
    if isinstance(samples[0], dict):
        return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    return np.stack(samples)
