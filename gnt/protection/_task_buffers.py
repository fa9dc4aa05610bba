"""`TaskBuffers`: the running statistics, and other buffers that training changes, of each task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class TaskBuffers:
    """Values of a model's buffers at the end of each task. Only those that training changes are kept.

    Args:
        model: the model; its present buffers are those with which each task starts.
        skipped: a module whose buffers are left out.
    """

    def __init__(self, model: nn.Module, skipped: nn.Module) -> None:
        self._model, self._skipped = model, skipped
        self.initial = {name: value.detach().clone() for name, value in self._present().items()}
        self.tasks: list[dict[str, Tensor]] = []
        self.live: dict[str, Tensor] | None = None  # those of the open task, while an earlier one is in force

    def _present(self) -> dict[str, Tensor]:
        own = {id(value) for value in self._skipped.buffers()}
        return {name: value for name, value in self._model.named_buffers() if id(value) not in own}

    def changed(self) -> dict[str, Tensor]:
        """Copies of the buffers that differ from their initial values."""
        return {
            name: value.detach().clone()
            for name, value in self._present().items()
            if name not in self.initial or not _equal(value, self.initial[name])
        }

    @property
    def _moving(self) -> set[str]:
        return {name for task in self.tasks for name in task} | set(self.live or ())

    @torch.no_grad()
    def reset(self) -> None:
        """Give the buffers that tasks have changed their initial values."""
        self._write({})

    @torch.no_grad()
    def end_task(self) -> None:
        """Keep the values of the open task, whether they or those of an earlier one are in force."""
        self.tasks.append(self.changed() if self.live is None else dict(self.live))

    @torch.no_grad()
    def use(self, task: int | None) -> None:
        """Put the values of an ended task into the model; None: those of the open one."""
        if task is None:
            if self.live is not None:
                live, self.live = self.live, None
                self._write(live)
            return
        if self.live is None:
            self.live = self.changed()
        self._write(self.tasks[task])

    def check(self, saved: Iterable[Mapping[str, Tensor]]) -> None:
        """Raise ValueError for saved values of other shapes than the model's buffers."""
        present = self._present()
        for values in saved:
            for name, value in values.items():
                if name in present and value.shape != present[name].shape:
                    raise ValueError(
                        f"state_dict has buffer {name} with shape {tuple(value.shape)}, that of the network has "
                        f"{tuple(present[name].shape)}"
                    )

    def load(self, initial: dict[str, Tensor], tasks: list[dict[str, Tensor]], live: list[dict[str, Tensor]]) -> None:
        """Load saved values; those in the model are loaded with its own state."""
        present = self._present()
        self.initial = {name: value.detach().clone() for name, value in present.items()} | initial
        self.tasks, self.live = tasks, live[0] if live else None

    def _write(self, values: Mapping[str, Tensor]) -> None:
        present = self._present()
        for name in self._moving | set(values):
            source = values.get(name, self.initial.get(name))
            if source is not None and name in present:
                present[name].copy_(source)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a.detach(), b.to(a.device)))
