"""What the consumers of unit groups read in one forward, taken by forward pre-hooks and, if wanted, replaced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gnt.importance._group_signals import unit_mean
from gnt.importance._statistics import arrange
from gnt.units import Slot, UnitGroup

Replace = Callable[[int, Sequence["Reader"], Tensor], Tensor]


class Reader(NamedTuple):
    """A consumer of a group.

    Attributes:
        group: number of the group.
        slot: the consumer's slot.
    """

    group: int
    slot: Slot


class Read(NamedTuple):
    """One tensor that a module has read in a forward.

    Attributes:
        readers: the groups whose units it contains, with the module's slots.
        value: the tensor, a node of the graph of its own, so that its gradient is that through this module alone.
        source: the tensor that the module was given.
        outputs: a list with what the module returned, once it has.
    """

    readers: Sequence[Reader]
    value: Tensor
    source: Tensor
    outputs: list[Any]


@contextlib.contextmanager
def reads_of(groups: Sequence[UnitGroup], replace: Replace | None = None) -> Iterator[list[Read]]:
    """Take what the consumers of ``groups`` read inside this context.

    Args:
        groups: the unit groups.
        replace: is given the number of reads before, the readers and what is read, and returns what they read instead.
    """
    by_module: dict[nn.Module, list[Reader]] = {}
    for number, group in enumerate(groups):
        for slot in group.outgoing:
            by_module.setdefault(slot.module, []).append(Reader(number, slot))
    reads: list[Read] = []

    def hook_of(readers: list[Reader]) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            name, source = (None, args[0]) if args else next(iter(kwargs.items()))
            value = source if replace is None else replace(len(reads), readers, source)
            if torch.is_grad_enabled():
                value = value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
            reads.append(Read(readers, value, source, []))
            return ((value, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: value})

        return hook

    def keep_output(module: nn.Module, args: Any, output: Any) -> None:
        for read in reversed(reads):
            if read.readers[0].slot.module is module:
                read.outputs.append(output)
                break

    handles = [module.register_forward_pre_hook(hook_of(each), with_kwargs=True) for module, each in by_module.items()]
    handles += [module.register_forward_hook(keep_output) for module in by_module]
    try:
        yield reads
    finally:
        for handle in handles:
            handle.remove()


def check_same_shapes(first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    """Raise ValueError unless two forwards have read tensors of the same shapes."""
    shapes = [[tuple(each.shape) for each in several] for several in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "the method compares what layers read for x and for points between a baseline and x, and the network reads "
            f"features of shapes {shapes[0]} for one and {shapes[1]} for another: choose a method without a baseline, "
            "such as 'gradient_activation' or 'ablation'"
        )


def positions_of(readers: Sequence[Reader], group: int, like: Tensor) -> Tensor:
    """Which positions of what is read belong to a group: bool (width,)."""
    slot = readers[0].slot
    own = torch.zeros(like.shape[1 - slot.weight.ndim], dtype=torch.bool, device=like.device)
    for reader in readers:
        if reader.group == group:
            own[reader.slot.index(torch.arange(reader.slot.num_units, device=like.device))] = True
    return own


def along_positions(vector: Tensor, slot: Slot) -> Tensor:
    """A tensor (..., width) in a shape that broadcasts along the positions of what the consumer reads."""
    return vector.reshape(*vector.shape, *(1,) * (slot.weight.ndim - 2))


def unit_means(groups: Sequence[UnitGroup], reads: Sequence[Read], attributions: Sequence[Tensor]) -> list[Tensor]:
    """Mean |attribution| of each unit over samples, places and positions: (num_units,) for each group.

    Args:
        groups: the unit groups.
        reads: what was read.
        attributions: one tensor of the shape of each read. Those of consumers that read the same value of the units
            are added before the absolute value is taken.
    """
    parts: list[dict[int, dict[Any, Tensor]]] = [{} for _ in groups]
    for read, attribution in zip(reads, attributions, strict=True):
        for reader in read.readers:
            values = arrange(attribution, reader.slot)
            by_place = parts[reader.group].setdefault(reader.slot.tap, {})
            place = (_place(read.source), reader.slot.offset)
            by_place[place] = by_place[place] + values if place in by_place else values
    means = []
    for group, by_tap in zip(groups, parts, strict=True):
        taps = [_mean_magnitude(list(by_tap[tap].values())) for tap in group.tap_numbers if tap in by_tap]
        weight = group.incoming[0].weight
        zero = torch.zeros(
            group.num_units, dtype=torch.promote_types(weight.dtype, torch.float32), device=weight.device
        )
        means.append(unit_mean(torch.cat(taps, 1)).detach() if taps else zero)
    return means


def _mean_magnitude(parts: Sequence[Tensor]) -> Tensor:
    """Mean magnitude over the samples and sites of all parts: (num_units, block)."""
    dtype = torch.promote_types(parts[0].dtype, torch.float32)
    sizes = [part.shape[0] * (part.shape[3] if part.ndim == 4 else 1) for part in parts]
    sums = [part.abs().sum(0 if part.ndim == 3 else (0, 3), dtype=dtype) for part in parts]
    return torch.stack(sums).sum(0) / max(sum(sizes), 1)


def _place(tensor: Tensor) -> Any:
    """The same for two tensors that are the same samples in the same memory."""
    if tensor.is_contiguous() and tensor.ndim:  # one may be a view that joins dimensions of samples
        return tensor.data_ptr(), tensor.numel(), tensor.shape[-1]
    return tensor.data_ptr(), tensor.shape, tensor.stride()
