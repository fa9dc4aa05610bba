"""Batches of samples from the data that a user gives at the end of a task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset


class Batch(NamedTuple):
    """Arguments of the network, with one entry for each sample along dimension 0, and labels."""

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]
    y: Tensor | None
    size: int

    def part(self, start: int, stop: int) -> Batch:
        """Some of the samples."""
        args = tuple(each[start:stop] for each in self.args)
        kwargs = {name: each[start:stop] for name, each in self.kwargs.items()}
        return Batch(args, kwargs, None if self.y is None else self.y[start:stop], min(stop, self.size) - start)


def batches(data: Any, samples: int | None, device: torch.device) -> Iterator[Batch]:
    """Yield batches of ``data``, on a device, with ``samples`` samples in all (None: all of them).

    Args:
        data: x, a pair (x, y), or an iterable of such batches. x is a tensor, or a tuple or mapping of tensors.
        samples: the largest number of samples.
        device: where to.

    Raises:
        TypeError, ValueError: anything else; no samples.
    """
    if data is None or isinstance(data, (str, bytes)):
        raise TypeError(f"data must be x, (x, y) or an iterable of batches, got {data!r}")
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise TypeError(
            f"data must consist of batches, got a {type(data).__name__}: give DataLoader(data, batch_size=...)"
        )
    if _is_listed_pair(data):
        raise TypeError("data [x, y] would be two batches of inputs: give the tuple (x, y)")
    whole = isinstance(data, (Tensor, Mapping)) or (isinstance(data, tuple) and len(data) == 2)
    if not whole and not isinstance(data, Iterable):
        raise TypeError(f"data must be x, (x, y) or an iterable of batches, got {type(data).__name__}")
    seen = 0
    for item in [data] if whole else data:
        if samples is not None and seen >= samples:
            break
        batch = _batch(item, device)
        if samples is not None:
            batch = batch.part(0, min(batch.size, samples - seen))
        seen += batch.size
        if batch.size:
            yield batch
    if not seen:
        raise ValueError("data must contain at least one sample, got none")


def _is_listed_pair(data: Any) -> bool:
    """True for a list of two tensors of which one is of real numbers: inputs and labels, not two batches."""
    if not isinstance(data, list) or len(data) != 2 or not all(isinstance(each, Tensor) for each in data):
        return False
    first, second = data
    return bool(first.is_floating_point() != second.is_floating_point())


def _batch(item: Any, device: torch.device) -> Batch:
    x, y = item, None
    if isinstance(item, (tuple, list)):
        if len(item) != 2:
            raise ValueError(f"a batch of data must be x or (x, y), got {len(item)} values")
        x, y = item
    inputs = x if isinstance(x, (tuple, Mapping)) else (x,)
    tensors = list(inputs.values() if isinstance(inputs, Mapping) else inputs)
    for each in [*tensors, *([] if y is None else [y])]:
        if not isinstance(each, Tensor) or not each.ndim:
            got = "a tensor without dimensions" if isinstance(each, Tensor) else type(each).__name__
            raise TypeError(f"data must consist of batches of tensors, got {got} (a DataLoader makes batches)")
    lengths = {len(each) for each in [*tensors, *([] if y is None else [y])]}
    if len(lengths) != 1:
        raise ValueError(f"x and y of a batch must have the same length, got {sorted(lengths)}")
    moved = [_normal(each.detach()).to(device) for each in tensors]
    labels = None if y is None else _normal(y.detach()).to(device)
    if isinstance(inputs, Mapping):
        return Batch((), dict(zip(inputs, moved, strict=True)), labels, lengths.pop())
    return Batch(tuple(moved), {}, labels, lengths.pop())


def _normal(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one from inference mode, of which autograd keeps none for a backward pass."""
    return tensor.clone() if tensor.is_inference() else tensor
