"""Ablation: the change of a sample's value if one unit's features are set to 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnt.importance.attribution._evaluation import Evaluation
from gnt.importance.attribution._reads import Read, Reader, along_positions
from gnt.units import is_transposed_linear, map_tensors


@torch.no_grad()
def ablation(of: Evaluation, chunk: int) -> list[Tensor]:
    """Mean |F - F without the unit| over samples: (num_units,) for each group.

    Args:
        of: the network and the samples.
        chunk: samples in one forward, at most; the forward of several units contains all samples for each.
    """
    output, reads = of.output(of.x)
    values = of.values(output)
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    found = []
    for number, group in enumerate(of.groups):
        own = [read for read in reads if any(reader.group == number for reader in read.readers)]
        if not own:
            found.append(torch.zeros(group.num_units, dtype=values.dtype, device=values.device))
        elif _makes_output(own, output) and isinstance(of.target, Tensor):
            found.append(_of_last_group(own[0], number, of.target).to(values))
        else:
            together = 1 if of.mixes_samples else max(1, chunk // max(len(values), 1))
            found.append(_by_forwards(of, number, values, reads, together))
    return found


def _makes_output(reads: Sequence[Read], output: Any) -> bool:
    """True if the only consumer of the units is a linear layer, whose result is the output of the model."""
    (read, *others), module = reads, reads[0].readers[0].slot.module
    linear = type(module) is nn.Linear or is_transposed_linear(module)
    return linear and not others and read.value.ndim == 2 and any(each is output for each in read.outputs)


def _of_last_group(read: Read, number: int, target: Tensor) -> Tensor:
    """Mean |h_i w_yi| over samples, of flattened channels the sum of h_i w_yi over the channel's positions."""
    slot = next(reader.slot for reader in read.readers if reader.group == number)
    by_class = slot.weight.detach().movedim(slot.dim, 1)
    products = read.value * by_class[target.to(by_class.device)]
    dtype = torch.promote_types(products.dtype, torch.float32)
    return _mean(slot.of_units(products, 1).sum(2, dtype=dtype).abs(), 0)


def _by_forwards(of: Evaluation, number: int, values: Tensor, reads: Sequence[Read], together: int) -> Tensor:
    """One forward for ``together`` units, if samples are along the first dimension of all that is read."""
    units = of.groups[number].num_units
    samples = len(values)
    changes: list[Tensor] = []
    start = 0
    while start < units:
        count = min(together, units - start)
        without = _Without(number, start, count, [read.value.shape for read in reads])
        try:
            x = of.x if count == 1 else map_tensors(of.x, lambda t, k=count: _repeated(t, k, samples))  # type: ignore[misc]
            output, _ = of.output(x, without)
            rows = _values_of_copies(of, output, count)
        except _SamplesElsewhereError:
            together = 1
            continue
        changes.append(_mean((rows - values).abs(), 1))
        start += count
    return torch.cat(changes)


def _mean(values: Tensor, dim: int) -> Tensor:
    """The mean over samples; 0 without samples."""
    return values.sum(dim) / max(values.shape[dim], 1)


def _repeated(tensor: Tensor, count: int, samples: int) -> Tensor:
    if tensor.ndim == 0 or len(tensor) != samples:
        raise _SamplesElsewhereError
    return tensor.repeat(count, *(1,) * (tensor.ndim - 1))


def _values_of_copies(of: Evaluation, output: Any, count: int) -> Tensor:
    """The values of each copy of the samples, (count, N)."""
    if count == 1:
        return of.values(output)[None]
    if not isinstance(output, Tensor) or len(output) % count:
        raise _SamplesElsewhereError
    return torch.stack([of.values(part) for part in output.chunk(count)])


class _SamplesElsewhereError(Exception):
    """Something that is read does not have the samples along its first dimension."""


class _Without:
    """Sets the features of unit ``first + k`` to 0 in copy k of the samples."""

    def __init__(self, group: int, first: int, count: int, shapes: Sequence[torch.Size]) -> None:
        self._group, self._first, self._count, self._shapes = group, first, count, shapes

    def __call__(self, number: int, readers: Sequence[Reader], value: Tensor) -> Tensor:
        if self._count > 1:
            shape = self._shapes[number] if number < len(self._shapes) else value.shape
            if value.shape != (shape[0] * self._count, *shape[1:]):
                raise _SamplesElsewhereError
        slot = readers[0].slot
        keep = value.new_ones(self._count, value.shape[1 - slot.weight.ndim])
        for reader in readers:
            if reader.group == self._group:
                units = torch.arange(self._first, self._first + self._count, device=value.device)
                copies = torch.arange(self._count, device=value.device).repeat_interleave(reader.slot.block)
                keep[copies, reader.slot.index(units)] = 0.0
        keep = along_positions(keep, slot)
        lead = (1,) * (value.ndim - keep.ndim + 1)
        by_copy = value.reshape(self._count, -1, *value.shape[1:]) if self._count > 1 else value[None]
        return (by_copy * keep.reshape(self._count, *lead, *keep.shape[1:])).reshape(value.shape)
