"""Proofs that unit groups are right, for any model, inputs and groups: they ask the model, not who found them.

    subject = Subject(model, (x,))
    for group in gnt.trace(model, x):
        prove_consumers(subject, group)     # complete, and none too many, in training and evaluation
    prove_replacement(subject, groups)      # the function stays, and nothing else changes (tests.replacement_proofs)

What a slot addresses is worked out here anew from its fields, so that a fault of `gnt.units` shows, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gnt.units import Slot, UnitGroup
from tests.units.tracing.subjects import Subject, where_read

COUPLING = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # a unit's value enters its neighbours' statistics
PER_UNIT = ("weight", "bias", "running_mean", "running_var")


def same(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    """Equal in every bit (but for the sign of zero)."""
    return len(found) == len(wanted) and all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def some_units(group: UnitGroup, seed: int = 0) -> Tensor:
    """About half of a group's units, at random, at least one."""
    order = torch.randperm(group.num_units, generator=torch.Generator().manual_seed(seed))
    return order[: (group.num_units + 1) // 2]


def positions(slot: Slot, units: Tensor) -> Tensor:
    """What the slot says ``units`` own along its dimension, sorted."""
    if slot.positions is not None:
        return slot.positions[units].flatten().sort().values
    within = torch.arange(slot.block)
    return (slot.offset + units[:, None] * slot.block + within).flatten().sort().values


def owned(slot: Slot, tensor: Tensor, units: Tensor) -> Tensor:
    """Which elements of a tensor of the slot's module belong to ``units``: bool, its shape."""
    mask = torch.zeros(tensor.shape, dtype=torch.bool)
    where = positions(slot, units)
    if tensor.ndim > 1 and slot.groups > 1:
        per_group, outputs = tensor.shape[1], tensor.shape[0] // slot.groups
        for channel in where.tolist():
            group = channel // per_group
            mask[group * outputs : (group + 1) * outputs, channel % per_group] = True
        return mask
    return mask.index_fill_(0 if tensor.ndim == 1 else slot.dim, where, True)


def unit_tensors(slot: Slot) -> dict[str, Tensor]:
    """Tensors of a producer, norm or depthwise convolution of which units own a part."""
    named = {name: getattr(slot.module, name, None) for name in PER_UNIT}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


class Way(NamedTuple):
    """Slots in which a change touches only the units' own features, while the ``frozen`` modules stand still."""

    slots: list[Slot]
    frozen: list[nn.Module]


def ways(subject: Subject, group: UnitGroup) -> list[Way]:
    """All that makes the units' features; in two parts, if a norm couples the units.

    The last such norm and what comes after it; and what comes before, for readers that stand beside the norm.
    """
    own = [*group.incoming, *group.scales]
    if not is_coupled(group):
        return [Way(own, [])]
    called: list[nn.Module] = []
    with ExitStack() as stack:
        for slot in group.scales:
            hook = slot.module.register_forward_pre_hook(lambda module, args: called.append(module))
            stack.callback(hook.remove)
        subject.run()
    last = max(i for i, module in enumerate(called) if isinstance(module, COUPLING))
    behind = [slot for slot in group.scales if any(slot.module is module for module in called[last:])]
    return [Way(behind, []), Way([slot for slot in own if slot not in behind], [called[last]])]


def is_coupled(group: UnitGroup) -> bool:
    """Whether a LayerNorm or GroupNorm stands between producer and consumers."""
    return any(isinstance(slot.module, COUPLING) for slot in group.scales)


@torch.no_grad()
def silence(slots: Sequence[Slot], units: Tensor) -> None:
    """Zero the slots' weights for ``units``."""
    for slot in slots:
        slot.module.weight[owned(slot, slot.module.weight, units)] = 0.0


@torch.no_grad()
def disturb(slots: Sequence[Slot], units: Tensor, seed: int) -> None:
    """Give everything that makes the units' features wild values."""
    draw = torch.Generator().manual_seed(seed)
    for slot in slots:
        for name, tensor in unit_tensors(slot).items():
            mask = owned(slot, tensor, units)
            wild = 5 * torch.randn(int(mask.sum()), generator=draw, dtype=tensor.dtype)
            tensor[mask] = wild.abs() + 0.1 if name == "running_var" else wild


def prove_consumers(subject: Subject, group: UnitGroup, modes: Sequence[bool] = (False, True)) -> None:
    """The group's consumers are all that read its units, and each of them does.

    With their slices of some units zeroed, the units' features mean nothing to the output: bit-equal under wild
    producers. With any one of them left as it is, they mean something.
    """
    units, sources = some_units(group), ways(subject, group)
    for training in modes:
        mode = "training" if training else "evaluation"
        for way, seed in itertools.product(sources, range(2)):
            heard = _is_heard(subject, group.outgoing, units, way, training, seed)
            assert not heard, f"{group.name}: read by more than its consumers, in {mode}"
        for spared in group.outgoing:
            zeroed = [slot for slot in group.outgoing if slot is not spared]
            # a consumer before a coupling norm is heard through it alone: of these the trail below tells more
            beside = [Way([*group.incoming, *group.scales], [])] * is_coupled(group)
            tries = itertools.product([*sources, *beside], range(4))
            heard = any(_is_heard(subject, zeroed, units, way, training, seed) for way, seed in tries)
            assert heard, f"{group.name}: {spared.name} does not read it, in {mode}"
    for unit in {0, group.num_units // 2, group.num_units - 1}:
        found, wanted = trail(subject, group, unit), listed(subject, group, unit)
        assert found == wanted, f"{group.name}: unit {unit} is read at {found}, the group says {wanted}"


def _is_heard(subject: Subject, zeroed: Sequence[Slot], units: Tensor, way: Way, training: bool, seed: int) -> bool:
    """Whether the output tells one wild state of the units from another."""
    with subject.unchanged(), subject.frozen(way.frozen, training):
        silence(zeroed, units)
        before = subject.run(training)
        disturb(way.slots, units, seed)
        between = subject.run(training)
        disturb(way.slots, units, 100 + seed)
        return not same(between, before) or not same(subject.run(training), before)


def listed(subject: Subject, group: UnitGroup, unit: int) -> dict[str, list[int]]:
    """By the group: consumers' names with the input positions where they read ``unit``."""
    names = {module: name for name, module in subject.model.named_modules()}
    read: dict[str, list[int]] = {}
    for slot in group.outgoing:
        assert names[slot.module] == slot.name
        read.setdefault(slot.name, []).extend(positions(slot, torch.tensor([unit])).tolist())
    return {name: sorted(where) for name, where in sorted(read.items())}


def trail(subject: Subject, group: UnitGroup, unit: int) -> dict[str, list[int]]:
    """By the model: where weight layers read ``unit``; see `where_read`."""
    read: dict[str, set[int]] = {}
    for way in ways(subject, group):
        sources = [(slot.module, positions(slot, torch.tensor([unit]))) for slot in way.slots]
        with subject.frozen(way.frozen):
            for name, where in where_read(subject, sources, [slot.module for slot in group.scales]).items():
                read.setdefault(name, set()).update(where)
    return {name: sorted(where) for name, where in sorted(read.items())}
