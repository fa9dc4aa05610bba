"""Checks that the consumers of a unit group are right, for any model and inputs, by running the model.

    subject = ModelUnderTest(model, (x,))
    for group in gnt.trace(model, x):
        check_consumers(subject, group)      # complete and minimal, in training and evaluation mode
    check_replacement(subject, groups)       # of replacement_checks: the function is kept, nothing else changes

The positions of a slot are computed here independently of `gnt.units`, so that its errors are found as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gnt.units import Slot, UnitGroup
from tests.units.tracing.model_under_test import ModelUnderTest, is_depthwise, nan_readers

COUPLING = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # a unit's value changes the statistics of its neighbours
PER_UNIT = ("weight", "bias", "running_mean", "running_var")


def same(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    """True if all tensors are exactly equal."""
    return len(found) == len(wanted) and all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def some_units(group: UnitGroup, seed: int = 0) -> Tensor:
    """About half of a group's units, at random, at least one."""
    order = torch.randperm(group.num_units, generator=torch.Generator().manual_seed(seed))
    return order[: (group.num_units + 1) // 2]


def positions(slot: Slot, units: Tensor) -> Tensor:
    """Sorted positions of ``units`` along the dimension of a slot."""
    if slot.positions is not None:
        return slot.positions[units].flatten().sort().values
    within = torch.arange(slot.block)
    return (slot.offset + units[:, None] * slot.block + within).flatten().sort().values


def owned(slot: Slot, tensor: Tensor, units: Tensor) -> Tensor:
    """Mask of the elements of a tensor of the slot's module that belong to ``units``."""
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
    """Tensors of a producer, norm or depthwise convolution that have a part for each unit."""
    named = {name: getattr(slot.module, name, None) for name in slot.values or PER_UNIT}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


class ChangeableSlots(NamedTuple):
    """Slots whose change affects only the units' own features while the outputs of ``fixed`` modules are fixed."""

    slots: list[Slot]
    fixed: list[nn.Module]


def changeable_slots(subject: ModelUnderTest, group: UnitGroup) -> list[ChangeableSlots]:
    """The slots that compute the units' features, in two parts if a norm couples the units.

    The parts are the last such norm with the slots after it, and the slots before it, whose features other consumers
    may read.
    """
    own = [*group.incoming, *group.scales]
    if not is_coupled(group):
        return [ChangeableSlots(own, [])]
    called: list[nn.Module] = []
    coupling = coupling_modules(subject.model, group)
    with ExitStack() as stack:
        for module in {*coupling, *(slot.module for slot in group.scales)}:
            hook = module.register_forward_pre_hook(lambda module, args: called.append(module))
            stack.callback(hook.remove)
        subject.run()
    last = max(i for i, module in enumerate(called) if module in coupling)
    after_norm = [slot for slot in group.scales if any(slot.module is module for module in called[last:])]
    return [
        ChangeableSlots(after_norm, []),
        ChangeableSlots([slot for slot in own if slot not in after_norm], [called[last]]),
    ]


def coupling_modules(model: nn.Module, group: UnitGroup) -> list[nn.Module]:
    """The modules between producer and consumers that couple the units; each must be named in the group."""
    named = [model.get_submodule(norm.partition(" ")[0]) for norm in group.couplings]
    assert all(slot.module in named for slot in group.scales if _is_coupling(slot.module))
    return named


def _is_coupling(module: nn.Module) -> bool:
    return isinstance(module, COUPLING) and getattr(module, "num_groups", 1) < getattr(module, "num_channels", 2)


def is_coupled(group: UnitGroup) -> bool:
    """True if a norm that couples units lies between producer and consumers."""
    return bool(group.couplings) or any(_is_coupling(slot.module) for slot in group.scales)


@torch.no_grad()
def zero_weights(slots: Sequence[Slot], units: Tensor) -> None:
    """Set the slots' weights for ``units`` to 0."""
    for slot in slots:
        weight = next(iter(unit_tensors(slot).values()))
        weight[owned(slot, weight, units)] = 0.0


@torch.no_grad()
def randomize_units(slots: Sequence[Slot], units: Tensor, seed: int) -> None:
    """Give large random values to all tensors that compute the units' features."""
    draw = torch.Generator().manual_seed(seed)
    for slot in slots:
        for name, tensor in unit_tensors(slot).items():
            mask = owned(slot, tensor, units)
            values = 5 * torch.randn(int(mask.sum()), generator=draw, dtype=tensor.dtype)
            tensor[mask] = values.abs() + 0.1 if name == "running_var" else values


def check_consumers(subject: ModelUnderTest, group: UnitGroup, modes: Sequence[bool] = (False, True)) -> None:
    """Check that the consumers of a group are all layers that read its units, and that each of them does.

    With the consumers' columns of some units set to 0, the output must be bit-equal for any values of the units'
    features. With the columns of a single consumer kept, it must change.
    """
    units, sources = some_units(group), changeable_slots(subject, group)
    for training in modes:
        mode = "training" if training else "evaluation"
        for part, seed in itertools.product(sources, range(2)):
            affected = _affects_output(subject, group.outgoing, units, part, training, seed)
            assert not affected, f"{group.name}: read by more than its consumers, in {mode}"
        for kept in group.outgoing:
            if is_depthwise(kept.module) and kept.module in [slot.module for slot in group.incoming]:
                continue  # a gate of each unit from this unit alone; the nan check below finds what it reads
            zeroed = [slot for slot in group.outgoing if slot is not kept]
            # a consumer before a coupling norm is only affected together with the norm; the nan check is stricter
            all_slots = [ChangeableSlots([*group.incoming, *group.scales], [])] * is_coupled(group)
            tries = itertools.product([*sources, *all_slots], range(4))
            affected = any(_affects_output(subject, zeroed, units, part, training, seed) for part, seed in tries)
            assert affected, f"{group.name}: {kept.name} does not read it, in {mode}"
    if not all(any(True for _ in module.parameters()) for module in coupling_modules(subject.model, group)):
        return  # no parameter of a single unit comes after the norm, through which nan could enter
    for unit in {0, group.num_units // 2, group.num_units - 1}:
        found, wanted = readers_by_nan(subject, group, unit), readers_of_group(subject, group, unit)
        assert found == wanted, f"{group.name}: unit {unit} is read at {found}, but the group has {wanted}"


def _affects_output(
    subject: ModelUnderTest, zeroed: Sequence[Slot], units: Tensor, part: ChangeableSlots, training: bool, seed: int
) -> bool:
    """True if the output depends on the values of the units."""
    with subject.unchanged(), subject.fixed_outputs(part.fixed, training):
        zero_weights(zeroed, units)
        before = subject.run(training)
        randomize_units(part.slots, units, seed)
        between = subject.run(training)
        randomize_units(part.slots, units, 100 + seed)
        return not same(between, before) or not same(subject.run(training), before)


def readers_of_group(subject: ModelUnderTest, group: UnitGroup, unit: int) -> dict[str, list[int]]:
    """Input positions at which the group's consumers read ``unit``, by name."""
    names = {module: name for name, module in subject.model.named_modules()}
    read: dict[str, list[int]] = {}
    for slot in group.outgoing:
        assert names[slot.module] == slot.name
        read.setdefault(slot.name, []).extend(positions(slot, torch.tensor([unit])).tolist())
    return {name: sorted(where) for name, where in sorted(read.items())}


def readers_by_nan(subject: ModelUnderTest, group: UnitGroup, unit: int) -> dict[str, list[int]]:
    """Input positions at which the model's weight layers read ``unit``, by name; see `nan_readers`."""
    read: dict[str, set[int]] = {}
    for part in changeable_slots(subject, group):
        sources = [(slot.module, positions(slot, torch.tensor([unit]))) for slot in part.slots]
        with subject.fixed_outputs(part.fixed):
            for name, where in nan_readers(subject, sources, [slot.module for slot in group.scales]).items():
                read.setdefault(name, set()).update(where)
    return {name: sorted(where) for name, where in sorted(read.items())}
