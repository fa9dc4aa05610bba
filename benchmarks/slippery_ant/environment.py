"""MuJoCo's Ant on ground with changing friction.

The environment can be saved between any two steps and continues bit for bit: the state includes physics, time, random
numbers and the current episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from numpy.typing import NDArray

from ..saved_tensors import like
from ..saved_values import anything, fields, integer, mapping, number, sequence

EPISODE_STEPS = 1000  # gymnasium's time limit for Ant
_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION


class SlipperyAnt(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """Gymnasium's Ant-v5 with its time limit, and with friction that changes between episodes.

    At the first end of an episode after every ``change_every`` steps, the sliding friction of *every* geom of the model
    is set to the next of ``frictions``; after the last one it stays. (For two geoms in contact MuJoCo uses the greater
    friction, so changing that of the ground alone could never make it slippery.)

    Args:
        frictions: the values of the friction, in order.
        change_every: number of environment steps between changes, counted over all episodes.
        seed: seed of the initial positions and velocities of episodes.
        contact_forces: whether observations include the forces on the body (105 numbers instead of 27).

    Attributes:
        steps: number of steps taken in all episodes.
        finished: return and length of the episodes that ended; readers may clear it.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - gymnasium declares it so

    def __init__(
        self, frictions: Sequence[float], change_every: int, seed: int, *, contact_forces: bool = True
    ) -> None:
        self._ant = AntEnv(include_cfrc_ext_in_observation=contact_forces)
        self._ant.reset(seed=seed)
        self.observation_space, self.action_space = self._ant.observation_space, self._ant.action_space
        self._frictions, self._change_every = tuple(frictions), change_every
        self.steps = 0
        self.finished: list[tuple[float, int]] = []
        self._return, self._length = 0.0, 0
        self._set_friction(0)

    @property
    def friction(self) -> float:
        """The current sliding friction of every geom."""
        return self._frictions[self._friction_index]

    @property
    def current_episode(self) -> tuple[float, int]:
        """Return and length so far of the current episode."""
        return self._return, self._length

    def _set_friction(self, index: int) -> None:
        self._friction_index = index
        self._ant.model.geom_friction[:, 0] = self._frictions[index]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Start an episode, with the friction that is due."""
        self._set_friction(min(self.steps // self._change_every, len(self._frictions) - 1))
        self._return, self._length = 0.0, 0
        first: tuple[NDArray[np.float64], dict[str, Any]] = self._ant.reset(seed=seed, options=options)
        return first

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """One step of the environment, which is five of MuJoCo's."""
        observation, reward, fallen, _, _ = self._ant.step(action)
        self.steps += 1
        self._length += 1
        self._return += float(reward)
        out_of_time = self._length >= EPISODE_STEPS
        if fallen or out_of_time:
            self.finished.append((self._return, self._length))
        return observation, float(reward), bool(fallen), out_of_time, {}

    def state_dict(self) -> dict[str, Any]:
        """The complete state, from which the environment continues bit for bit."""
        model, data = self._ant.model, self._ant.data
        physics = np.empty(mujoco.mj_stateSize(model, _PHYSICS))
        mujoco.mj_getState(model, data, physics, _PHYSICS)
        return {
            "physics": torch.from_numpy(physics),
            # The reward is computed from these positions, which lag slightly behind the physics.
            "body_positions": torch.from_numpy(data.xpos.copy()),
            "random": self._ant.np_random.bit_generator.state,
            "steps": self.steps,
            "friction": self._friction_index,
            "episode": {"return": self._return, "length": self._length},
            "finished": [list(each) for each in self.finished],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state. Raises ValueError if a value is missing or is not of its kind."""
        now = self.state_dict()
        fields(
            physics=like(now["physics"], finite=False),
            body_positions=like(now["body_positions"], finite=False),
            random=mapping(anything),
            steps=integer(0),
            friction=integer(0, len(self._frictions) - 1),
            episode=fields(**{"return": number(), "length": integer(0)}),
            finished=sequence(sequence(number(), 2)),
        )("ant", state)
        model, data = self._ant.model, self._ant.data
        mujoco.mj_setState(model, data, state["physics"].numpy(), _PHYSICS)
        data.xpos[:] = state["body_positions"].numpy()
        self._ant.np_random.bit_generator.state = state["random"]
        self.steps = state["steps"]
        self._set_friction(state["friction"])
        self._return, self._length = state["episode"]["return"], state["episode"]["length"]
        self.finished = [(value, length) for value, length in state["finished"]]
