"""Checks of the batches that are added to a replay buffer, against each other and the first batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnt.names import Balance


def checked_batch(x: Any, y: Any, task: Any, more: dict[str, Any], stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a batch by name.

    Args:
        x, y, task, more: the arguments of `ReplayBuffer.add`.
        stored: what the buffer stores, by name; empty before the first batch.

    Raises:
        TypeError, ValueError: as `ReplayBuffer.add`.
    """
    for name, value in (("x", x), ("y", y), *more.items()):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
        if not value.ndim:
            raise ValueError(f"{name} must have samples first, got a tensor without dimensions")
    fields: dict[str, Tensor] = {"x": x, "y": y, **more}
    if task is not None:
        of_batch = isinstance(task, int) and not isinstance(task, bool)
        fields["task"] = torch.full((len(x),), task, device="cpu") if of_batch else task
        if not isinstance(fields["task"], Tensor) or fields["task"].dtype != torch.int64 or fields["task"].ndim != 1:
            raise TypeError(f"task must be an integer, an int64 tensor (batch,) or None, got {task!r:.60}")
    for name, value in fields.items():
        if len(value) != len(x):
            raise ValueError(f"{name} has {len(value)} samples, and x has {len(x)}")
    if stored:
        if set(fields) != set(stored):
            named = ", ".join(sorted(stored))
            raise ValueError(f"each batch must have what the first had, {named}; got {', '.join(sorted(fields))}")
        for name, value in fields.items():
            held = stored[name]
            if value.shape[1:] != held.shape[1:] or value.dtype != held.dtype:
                raise ValueError(
                    f"{name} of the first batch had items of shape {tuple(held.shape[1:])}, {held.dtype}; got "
                    f"{tuple(value.shape[1:])}, {value.dtype}"
                )
    return fields


def labels_of(fields: Mapping[str, Tensor], balance: Balance | None) -> NDArray[np.int64]:
    """What the items of a batch are balanced by; 0 without ``balance``.

    Raises:
        ValueError: there are no such labels.
    """
    if balance is None:
        return np.zeros(len(fields["x"]), dtype=np.int64)
    labels = fields.get("y" if balance == "class" else "task")
    if labels is None:
        raise ValueError("balance='task' needs the task: add(x, y, task)")
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(
            f"balance='class' needs class indices (batch,) as y, got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    numbers: NDArray[np.int64] = labels.cpu().to(torch.int64).numpy()
    return numbers
