"""Separate states of torch's and numpy's global random generators for a run.

Stable-Baselines3 draws actions and the order of samples from the global generators, which other code uses too.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
import torch

from ..saved_tensors import random_state, tensor
from ..saved_values import fields, integer
from ..seeds import stream


class PrivateRandomState:
    """Context manager: inside it, torch's and numpy's global generators have this run's state; afterwards the previous
    one.
    """

    def __init__(self, seed: int) -> None:
        self._torch = stream(seed, "actions").get_state()
        self._numpy = np.random.RandomState(stream(seed, "order").initial_seed() % 2**32).get_state(legacy=False)

    def __enter__(self) -> None:
        self._swap()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._swap()

    def _swap(self) -> None:
        previous = torch.get_rng_state(), np.random.get_state(legacy=False)
        torch.set_rng_state(self._torch)
        np.random.set_state(self._numpy)
        self._torch, self._numpy = previous

    def state_dict(self) -> dict[str, Any]:
        """The state of the generators."""
        state: Any = self._numpy
        inner = {"key": torch.from_numpy(state["state"]["key"].astype(np.int64)), "pos": state["state"]["pos"]}
        return {"torch": self._torch, "numpy": {**state, "state": inner}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state. Raises ValueError if a value is missing or is not of its kind."""
        key = tensor(torch.int64, 624, least=0, most=2**32 - 1)
        kind = fields(torch=random_state, numpy=fields(state=fields(key=key, pos=integer(0, 624))))
        kind("draws", state)
        self._torch = state["torch"]
        inner = {**state["numpy"]["state"], "key": state["numpy"]["state"]["key"].numpy().astype(np.uint32)}
        self._numpy = {**state["numpy"], "state": inner}
