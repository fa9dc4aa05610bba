"""The batches that the copies learn: taken from a loader, a data set, tensors or any iterable."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from gnt.diagnosis._generators import states_kept
from gnt.units import ModelInputs, map_tensors

TARGET = "labels"  # of a batch that is a mapping, as Hugging Face models take them
_PASS_BATCHES_ON = ("torch", "torchdata", "accelerate")  # packages whose loaders do not change what is collated


class Batch(NamedTuple):
    """Inputs and targets of one step."""

    x: ModelInputs
    y: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(map_tensors(self.x, lambda tensor: tensor.to(device)), self.y.to(device))


def read_batches(data: Any, count: int, batch_size: int) -> list[Batch]:
    """Return the first ``count`` batches of ``data``, or all if there are fewer.

    Samples of tensors and of data sets are taken in a random order that is always the same, without a last batch of one
    sample; loaders and other iterables keep their own order. A loader's workers are not used, so that an epoch that is
    under way is not disturbed. A subclass of DataLoader that iterates in a way of its own is asked for its batches.

    Raises:
        TypeError, ValueError: data of another kind, or without a batch.
    """
    check_data(data)
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, np.ndarray) for part in data):
        raise TypeError("data must be tensors (x, y), got NumPy arrays: torch.from_numpy makes tensors of them")
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        x, y = data
        if not x.ndim or not y.ndim or len(x) != len(y) or not len(x):
            raise ValueError(
                f"data must have as many targets as inputs, at least one, got shapes {tuple(x.shape)} and "
                f"{tuple(y.shape)}"
            )
        data = TensorDataset(x, y)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        size = len(data)  # type: ignore[arg-type]
        # drawn here, since a loader draws on the default device
        order = torch.randperm(size, generator=torch.Generator().manual_seed(0), device="cpu").tolist()
        last_of_one = size > batch_size > 1 and size % batch_size == 1  # batch norm cannot learn it
        data = DataLoader(data, batch_size, sampler=order, drop_last=last_of_one)
    elif isinstance(data, IterableDataset):
        data = _in_batches(data, batch_size)
    with contextlib.closing(_items(data)) as items:
        batches = [_checked(batch, number) for number, batch in enumerate(islice(items, count))]
    if not batches:
        raise ValueError("data must have at least one batch, got none")
    return batches


def check_data(data: Any) -> None:
    """Raise TypeError for what `read_batches` cannot read batches from."""
    if isinstance(data, (Tensor, str, bytes, Mapping)) or not isinstance(data, (Iterable, Dataset)):
        raise TypeError(
            "data must be a DataLoader, a data set, tensors (x, y), or an iterable of batches (x, y), got "
            f"{type(data).__name__}"
        )


def _items(data: Any) -> Generator[Any, None, None]:
    if not isinstance(data, DataLoader):
        yield from data
        return
    samplers = [data.sampler, data.batch_sampler, getattr(data.batch_sampler, "sampler", None)]
    drawing = [getattr(each, "generator", None) for each in (data, *samplers)]
    generators = {id(each): each for each in drawing if isinstance(each, torch.Generator)}
    with states_kept(list(generators.values())), _attributes_kept(samplers):
        if _iterates_in_its_own_way(data):
            alone = copy.copy(data)
            vars(alone).update(num_workers=0, timeout=0, _iterator=None)
            yield from alone
            return
        if isinstance(data.dataset, IterableDataset):
            yield from _of_iterable(data)
            return
        collate: Any = data.collate_fn
        if data.batch_sampler is None:
            for index in data.sampler:
                yield collate(data.dataset[index])
            return
        for indices in data.batch_sampler:
            many = getattr(data.dataset, "__getitems__", None)
            yield collate(many(indices) if many is not None else [data.dataset[index] for index in indices])


def _iterates_in_its_own_way(data: DataLoader[Any]) -> bool:
    """True if a subclass may change the batches that are collated.

    One that keeps an iterator for all its epochs is read without it, since to read from it would take training's
    batches.
    """
    if any(isinstance(value, Iterator) for name, value in vars(data).items() if name != "_iterator"):
        return False
    return type(data).__iter__.__module__.split(".")[0] not in _PASS_BATCHES_ON


@contextlib.contextmanager
def _attributes_kept(objects: list[Any]) -> Iterator[None]:
    """Give the attributes of these objects their present values on exit: a sampler may count its epochs."""
    before = [(vars(each), dict(vars(each))) for each in objects if hasattr(each, "__dict__")]
    try:
        yield
    finally:
        for now, values in before:
            now.clear()
            now.update(values)


def _of_iterable(data: DataLoader[Any]) -> Generator[Any, None, None]:
    collate: Any = data.collate_fn
    items = iter(data.dataset)
    if data.batch_size is None:
        yield from map(collate, items)
        return
    while samples := list(islice(items, data.batch_size)):
        if data.drop_last and len(samples) < data.batch_size:
            return
        yield collate(samples)


def _in_batches(data: IterableDataset[Any], batch_size: int) -> Iterator[Any]:
    """The batches of a data set that yields batches, or samples, whose targets are numbers."""
    items = iter(data)
    first = next(items, None)
    if first is None:
        return iter(())
    y = first[1] if isinstance(first, (tuple, list)) and len(first) == 2 else None
    items = chain([first], items)
    if isinstance(y, (int, float)) or (isinstance(y, (Tensor, np.generic, np.ndarray)) and not y.ndim):
        return _of_samples(items, batch_size)
    return items


def _of_samples(items: Iterator[Any], batch_size: int) -> Iterator[Any]:
    while samples := list(islice(items, batch_size)):
        yield default_collate(samples)


def _checked(batch: Any, number: int) -> Batch:
    if isinstance(batch, Mapping):
        if not isinstance(batch.get(TARGET), Tensor):
            raise TypeError(f"data: batch {number} is a mapping without a tensor {TARGET!r}, got {', '.join(batch)}")
        return Batch(_copied({k: v for k, v in batch.items() if k != TARGET}), _copied(batch[TARGET]))
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        got = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(f"data: batch {number} must be a pair (x, y), or a mapping with {TARGET!r}, got {got}")
    x, y = batch
    x = tuple(x) if isinstance(x, list) else x
    if not isinstance(y, Tensor) or not isinstance(x, (Tensor, tuple, Mapping)):
        raise TypeError(
            f"data: batch {number} must hold inputs (a tensor, a tuple or a dict) and a tensor of targets, got "
            f"{type(x).__name__} and {type(y).__name__}"
        )
    if not y.ndim:
        raise ValueError(f"data: batch {number} must hold a target for each sample, got one sample without a batch")
    return Batch(_copied(x), _copied(y))


@torch.inference_mode(mode=False)
def _copied(value: Any) -> Any:
    """Copies, because a loader may reuse its tensors."""
    return map_tensors(value, lambda tensor: tensor.detach().clone())
