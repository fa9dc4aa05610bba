"""CBPSGD, CBPAdam, CBPAdamW for ``policy_kwargs``: they find the units of the policy that constructs them."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from torch.optim.optimizer import ParamsT

from gnt import optim
from gnt.integrations.stable_baselines3._policy_units import Patterns, network_of, units_of

_EPS = 1e-5  # which Stable-Baselines3 passes to torch.optim.Adam in PPO and A2C


class _PolicyOptimizer:
    """Gives an optimizer that is constructed by a policy the units of the policy's network."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        *,
        layers: Any = None,
        include: Patterns = None,
        exclude: Patterns = None,
        **settings: Any,
    ) -> None:
        given: list[Any] = list(params)
        policy, network = network_of(given, type(self).__name__)
        if layers is None:
            layers = units_of(policy, network, include, exclude)
        elif include is not None or exclude is not None:
            raise TypeError("include and exclude would be ignored: layers already selects the units")
        elif callable(layers) and not isinstance(layers, nn.Module):
            layers = layers(network)
        if isinstance(self, optim.CBPAdam | optim.CBPAdamW) and isinstance(policy, ActorCriticPolicy):
            settings.setdefault("eps", _EPS)
        super().__init__(given, lr, layers=layers, **settings)  # type: ignore[call-arg]


class CBPSGD(_PolicyOptimizer, optim.CBPSGD):
    """`gnt.optim.CBPSGD` for the policies of Stable-Baselines3. Arguments are those of `CBPAdam`."""


class CBPAdam(_PolicyOptimizer, optim.CBPAdam):
    """`gnt.optim.CBPAdam` for the policies of Stable-Baselines3: ``policy_kwargs=dict(optimizer_class=CBPAdam)``.

    The policy constructs it with its parameters. It traces a forward of the network that these belong to
    (`gnt.trace`): the policy of PPO and A2C, the Q network of DQN, actor and critic of SAC, TD3 and DDPG, each of which
    has an optimizer of its own. Its state, with the engine's, is part of ``model.save``, and a loaded model goes on bit
    for bit. Target networks and rollouts do not affect it.

    Args:
        params: the parameters; passed by Stable-Baselines3, as is the learning rate.
        lr: step size.
        include, exclude: names of layers or patterns, such as ``"*policy_net*"``, as for `gnt.trace`: only units of
            layers that match ``include`` and do not match ``exclude`` may be replaced.
        layers: the layers or unit groups in place of those found, or a function of the network that returns them.
        settings: settings of `gnt.GnT` and of the optimizer, as for `gnt.optim.CBPAdam`. ``eps`` is 1e-5 by default in
            PPO and A2C, as Stable-Baselines3 sets it for torch's Adam.

    Raises:
        TypeError: it is not constructed by a policy; a setting that would not be used.
        ValueError: as `gnt.GnT` and `gnt.trace`.

    >>> from stable_baselines3 import PPO
    >>> from gnt.integrations.stable_baselines3 import CBPAdam
    >>> cbp = dict(optimizer_class=CBPAdam, optimizer_kwargs=dict(replacement_rate=1e-3, maturity_threshold=20))
    >>> model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=cbp, device="cpu")
    >>> [group.name for group in model.policy.optimizer.gnt.groups][:2]
    ['mlp_extractor.policy_net.0', 'mlp_extractor.policy_net.2']
    """


class CBPAdamW(_PolicyOptimizer, optim.CBPAdamW):
    """`gnt.optim.CBPAdamW` for the policies of Stable-Baselines3. Arguments are those of `CBPAdam`."""
