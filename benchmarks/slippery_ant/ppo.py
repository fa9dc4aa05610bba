"""Stable-Baselines3's PPO with the paper's settings, one rollout and its updates at a time, with a complete state.

Differences from Stable-Baselines3's defaults, as in the paper: the coefficient of the value loss is 1, gradients are
not clipped, and advantages are normalised once over the whole rollout instead of in every minibatch. Differences from
the published code, as in Stable-Baselines3: the return of an episode that ends by the time limit includes the value
network's estimate of its last state (published code: no estimate), and actions are clipped before the environment
computes their cost.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from ..saved_tensors import tensor
from ..saved_values import anything, fields, integer, mapping, optional
from ..seeds import stream
from . import networks, optimizers
from .environment import SlipperyAnt
from .private_random_state import PrivateRandomState
from .settings import MINIBATCHES


class NormalisedRollout(RolloutBuffer):
    """A rollout buffer whose advantages have mean 0 and standard deviation 1. Returns use the unnormalised
    advantages.
    """

    def compute_returns_and_advantage(self, last_values: Tensor, dones: np.ndarray[Any, Any]) -> None:
        """Generalised advantage estimation, then A <- (A - mean A) / (std A + 1e-8)."""
        super().compute_returns_and_advantage(last_values, dones)
        self.advantages = (self.advantages - self.advantages.mean()) / (self.advantages.std() + 1e-8)


class Agent:
    """PPO on one environment, with its own random state.

    Attributes:
        networks: "policy" and "value", each as a sequence of layers.
        groups: the unit groups of their hidden layers.
        optimizer: optimizer of both networks and of the logarithm of the policy's standard deviation; continual
            backprop's has an engine.
        redo: what replaces dormant units if the method is ReDo, otherwise None.
    """

    def __init__(self, method: str, settings: Any, seed: int, env: SlipperyAnt) -> None:
        self._draws = PrivateRandomState(seed)
        with self._draws:  # draws initial weights, which are replaced below
            self._ppo = _ppo(env, settings)
        policy = self._ppo.policy
        bodies = policy.mlp_extractor
        self.networks = {
            "policy": networks.named_layers("policy", bodies.policy_net, policy.action_net),
            "value": networks.named_layers("value", bodies.value_net, policy.value_net),
        }
        weights = stream(seed, "weights")
        for net in self.networks.values():
            networks.lecun_init_(net, weights)
        self.groups = networks.hidden_units(*self.networks.values())
        self.optimizer = optimizers.make_optimizer(method, settings, seed, policy, self.groups)
        self.redo = optimizers.make_redo(method, settings, seed, self.groups, self.optimizer)
        policy.optimizer = self.optimizer

    @property
    def replaced(self) -> int | None:
        """Number of units replaced so far; None if the method replaces none."""
        engine = self.redo or getattr(self.optimizer, "gnt", None)
        return None if engine is None else sum(group.state.replaced for group in engine.groups)

    def learn(self) -> None:
        """Collect one rollout, then learn from it in several passes of 16 minibatches.

        Raises:
            FloatingPointError: training diverged.
        """
        try:
            with self._draws:
                self._ppo.learn(self._ppo.n_steps, log_interval=2, reset_num_timesteps=False)  # 2: not logged
        except ValueError as error:
            if "found invalid values" not in str(error):  # raised by torch.distributions
                raise
            raise FloatingPointError("the policy's outputs are not finite any more") from error
        if not all(bool(parameter.isfinite().all()) for parameter in self._ppo.policy.parameters()):
            raise FloatingPointError("the weights are not finite any more")

    def state_dict(self) -> dict[str, Any]:
        """The complete state, except the environment's, from which training continues bit for bit."""
        ppo = self._ppo
        own = {} if self.redo is None else {"redo": self.redo.state_dict()}
        return own | {
            "parameters": dict(ppo.policy.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "draws": self._draws.state_dict(),
            "seen": _tensor(ppo._last_obs),
            "begins": _tensor(ppo._last_episode_starts),
            "steps": ppo.num_timesteps,
            "epochs": ppo._n_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state. Raises ValueError if a value is missing or is not of its kind."""
        ppo = self._ppo
        own = () if self.redo is None else ("redo",)
        parts = dict.fromkeys(("parameters", "optimizer", "draws", *own), mapping(anything))
        shape = ppo.observation_space.shape
        assert shape is not None  # it is that of an array
        parts["seen"] = tensor(torch.float64, 1, *shape, finite=False)
        parts["begins"] = tensor(torch.bool, 1)
        if state.get("steps") == 0:  # before the first rollout both are None
            parts |= {name: optional(parts[name]) for name in ("seen", "begins")}
        fields(**parts, steps=integer(0), epochs=integer(0))("agent", state)
        ppo.policy.load_state_dict(state["parameters"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.redo is not None:
            self.redo.load_state_dict(state["redo"])
        self._draws.load_state_dict(state["draws"])
        ppo._last_obs, ppo._last_episode_starts = _array(state["seen"]), _array(state["begins"])
        ppo.num_timesteps, ppo._n_updates = state["steps"], state["epochs"]


def _ppo(env: SlipperyAnt, settings: Any) -> PPO:
    ppo = PPO(
        "MlpPolicy",
        DummyVecEnv([lambda: env]),
        learning_rate=settings.lr,
        n_steps=settings.rollout,
        batch_size=settings.rollout // MINIBATCHES,
        n_epochs=settings.epochs,
        gamma=0.99,
        gae_lambda=0.95,
        clip_range=0.2,
        normalize_advantage=False,
        rollout_buffer_class=NormalisedRollout,
        ent_coef=0.0,
        vf_coef=1.0,
        max_grad_norm=math.inf,
        policy_kwargs={
            "net_arch": {"pi": [settings.width] * 2, "vf": [settings.width] * 2},
            "activation_fn": nn.ReLU,
            "ortho_init": False,
            "log_std_init": 0.0,
        },
        device="cpu",
    )
    ppo.set_logger(Logger(folder=None, output_formats=[]))  # the default logger creates folders
    return ppo


def _tensor(array: Any) -> Tensor | None:
    return None if array is None else torch.from_numpy(np.array(array))


def _array(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.numpy().copy()
