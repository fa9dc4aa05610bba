"""Stable-Baselines3's PPO with the paper's choices, a rollout and its updates at a time, and its state.

Where it is at odds with Stable-Baselines3's defaults: the value's loss counts fully, gradients are not clipped, and
advantages are normalised once, over the whole rollout, instead of in every minibatch. Where Stable-Baselines3 is at
odds with the published code, it is left as it is: an episode that the time limit ends is worth what the value network
says of its end (there: nothing), and actions are clipped before the environment counts what they cost.
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

from benchmarks.seeds import stream
from benchmarks.slippery_ant import networks, optimizers
from benchmarks.slippery_ant.environment import SlipperyAnt
from benchmarks.slippery_ant.private_random_state import PrivateRandomState
from benchmarks.slippery_ant.settings import MINIBATCHES


class NormalisedRollout(RolloutBuffer):
    """A rollout whose advantages have mean 0 and standard deviation 1; the returns are those of the plain ones."""

    def compute_returns_and_advantage(self, last_values: Tensor, dones: np.ndarray[Any, Any]) -> None:
        """Generalised advantage estimation, then A <- (A - mean A) / (std A + 1e-8)."""
        super().compute_returns_and_advantage(last_values, dones)
        self.advantages = (self.advantages - self.advantages.mean()) / (self.advantages.std() + 1e-8)


class Agent:
    """PPO on one environment, drawing from random numbers of its own.

    Attributes:
        networks: "policy" and "value", each as the list of its layers.
        optimizer: of both, and of the logarithm of the policy's standard deviation; with an engine, where the method
            has one.
    """

    def __init__(self, method: str, settings: Any, seed: int, env: SlipperyAnt) -> None:
        self._draws = PrivateRandomState(seed)
        with self._draws:  # it draws initial weights, in vain
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
        policy.optimizer = self.optimizer

    @property
    def replaced(self) -> int | None:
        """How many units were replaced so far, where the method does that."""
        engine = getattr(self.optimizer, "gnt", None)
        return None if engine is None else sum(group.state.replaced for group in engine.groups)

    def learn(self) -> None:
        """One rollout, then some passes over it in 16 minibatches each.

        Raises:
            FloatingPointError: it diverged.
        """
        try:
            with self._draws:
                self._ppo.learn(self._ppo.n_steps, log_interval=None, reset_num_timesteps=False)
        except ValueError as error:
            if "found invalid values" not in str(error):  # torch's distributions
                raise
            raise FloatingPointError("the policy's outputs are no finite numbers any more") from error
        if not all(bool(parameter.isfinite().all()) for parameter in self._ppo.policy.parameters()):
            raise FloatingPointError("the weights are no finite numbers any more")

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on bit for bit, the environment's state apart."""
        ppo = self._ppo
        return {
            "parameters": dict(ppo.policy.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "draws": self._draws.state_dict(),
            "seen": _tensor(ppo._last_obs),
            "begins": _tensor(ppo._last_episode_starts),
            "steps": ppo.num_timesteps,
            "epochs": ppo._n_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        ppo = self._ppo
        ppo.policy.load_state_dict(state["parameters"])
        self.optimizer.load_state_dict(state["optimizer"])
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
    ppo.set_logger(Logger(folder=None, output_formats=[]))  # its own makes folders
    return ppo


def _tensor(array: Any) -> Tensor | None:
    return None if array is None else torch.from_numpy(np.array(array))


def _array(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.numpy().copy()
