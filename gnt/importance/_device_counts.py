"""The numbers of updates of groups on a GPU, where a captured CUDA graph reads and increases them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from gnt._triton import is_capturing, upload
from gnt.importance._running_averages import RunningAverages


class DeviceCounts:
    """``state.updates`` of several states, on their device.

    Outside of a capture the host's numbers are increased with those on the device. A replay increases those on the
    device only; `count_replay` then notes that the host has followed.

    Attributes:
        on_device: int64 (states,).
    """

    def __init__(self, states: Sequence[RunningAverages]) -> None:
        self._states = states
        self._device = states[0].born.device
        self._known = [state.updates for state in states]
        self.on_device = upload(torch.tensor(self._known, device="cpu"), self._device)

    @property
    def capturing(self) -> bool:
        """True while a CUDA graph is captured."""
        return is_capturing(self._device)

    def follow(self, updates: Sequence[int]) -> None:
        """Set the numbers on the device if the host's have changed by other means, such as a loaded state.

        Raises:
            RuntimeError: they have changed, and a CUDA graph is being captured.
        """
        if updates == self._known:
            return
        if self.capturing:
            raise RuntimeError(
                "the engine's state was changed since its last step, and a CUDA graph is being captured: take a step "
                "outside of the capture first"
            )
        self._known = list(updates)
        self.on_device.copy_(upload(torch.tensor(self._known, device="cpu"), self._device))

    def follow_host(self) -> None:
        """`follow` the numbers that the states have now."""
        self.follow([state.updates for state in self._states])

    def advance(self, absent: Collection[int], *, counted: bool) -> None:
        """Count an update of all states but ``absent``; on the device only if a graph is captured.

        Args:
            absent: numbers of the states that take no part.
            counted: a kernel has increased the numbers on the device.
        """
        present = [number for number in range(len(self._states)) if number not in absent]
        if not self.capturing:
            for number in present:
                self._states[number].updates += 1
            self.count_replay(absent)
        if not counted and not absent:
            self.on_device.add_(1)
        elif not counted:
            for number in present:
                self.on_device.narrow(0, number, 1).add_(1)

    def count_replay(self, absent: Collection[int]) -> None:
        """Note that the device has counted an update of all states but ``absent``."""
        self._known = [known + (number not in absent) for number, known in enumerate(self._known)]

    def mark(self, last_active: Tensor, active: Tensor, number: int) -> None:
        """Set ``last_active`` to the number of updates of a state where ``active``."""
        torch.where(active, self.on_device[number], last_active, out=last_active)
