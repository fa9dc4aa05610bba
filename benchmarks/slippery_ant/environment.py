"""MuJoCo's Ant on ground whose friction changes, and everything that makes up its state.

The environment can be saved between any two steps and goes on bit for bit: physics, time, random numbers, the
unfinished episode.
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

EPISODE_STEPS = 1000  # where gymnasium, too, ends an Ant's episode
_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION


class SlipperyAnt(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """Gymnasium's Ant-v5 with its time limit, and with friction that changes at ends of episodes.

    At the first end of an episode after every ``change_every`` steps, the sliding friction of *every* geom of the model
    becomes the next of ``frictions``; after the last one it stays. (MuJoCo takes the greater friction of two geoms that
    touch, so changing the ground's alone could never make it slippery.)

    Args:
        frictions: what the friction is, one after the other.
        change_every: steps of the environment from one to the next, counted over all episodes.
        seed: of the positions and velocities in which episodes begin.
        contact_forces: whether the forces on its body are part of what the ant sees (105 numbers, else 27).

    Attributes:
        steps: taken so far in all episodes.
        finished: return and length of the episodes that ended; whoever reads it may clear it.
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
        """The sliding friction of every geom now."""
        return self._frictions[self._friction_index]

    @property
    def current_episode(self) -> tuple[float, int]:
        """Return and length so far of the episode that has not ended."""
        return self._return, self._length

    def _set_friction(self, place: int) -> None:
        self._friction_index = place
        self._ant.model.geom_friction[:, 0] = self._frictions[place]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Begin an episode, with the friction that is due."""
        self._set_friction(min(self.steps // self._change_every, len(self._frictions) - 1))
        self._return, self._length = 0.0, 0
        return self._ant.reset(seed=seed, options=options)

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """One step: five of MuJoCo's."""
        seen, reward, fallen, _, _ = self._ant.step(action)
        self.steps += 1
        self._length += 1
        self._return += float(reward)
        out_of_time = self._length >= EPISODE_STEPS
        if fallen or out_of_time:
            self.finished.append((self._return, self._length))
        return seen, float(reward), bool(fallen), out_of_time, {}

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on bit for bit."""
        model, data = self._ant.model, self._ant.data
        physics = np.empty(mujoco.mj_stateSize(model, _PHYSICS))
        mujoco.mj_getState(model, data, physics, _PHYSICS)
        return {
            "physics": torch.from_numpy(physics),
            # The reward is the torso's progress since this record of it, which lags a little behind the physics.
            "body_positions": torch.from_numpy(data.xpos.copy()),
            "random": self._ant.np_random.bit_generator.state,
            "steps": self.steps,
            "friction": self._friction_index,
            "episode": {"return": self._return, "length": self._length},
            "finished": [list(each) for each in self.finished],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        model, data = self._ant.model, self._ant.data
        mujoco.mj_setState(model, data, state["physics"].numpy(), _PHYSICS)
        data.xpos[:] = state["body_positions"].numpy()
        self._ant.np_random.bit_generator.state = state["random"]
        self.steps = state["steps"]
        self._set_friction(state["friction"])
        self._return, self._length = state["episode"]["return"], state["episode"]["length"]
        self.finished = [(value, length) for value, length in state["finished"]]
