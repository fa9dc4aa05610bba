"""Where the gates of units act: what the consumers read, and what norms that couple the units read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gnt.protection._unit_layout import UnitLayout
from gnt.units import CONV_LAYERS, WEIGHT_LAYERS, Slot, UnitGroup, has_torch_forward, is_transposed_linear

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(eq=False)
class GatePlace:
    """A value that is multiplied by gates: the first input of a module, or its output.

    Attributes:
        name: path of the module.
        module: the module.
        width: size of the value's dimension of units.
        trailing: number of dimensions behind it.
        dimension_1: it is dimension 1, however many follow.
        output: it is the module's output.
        index: position in the vector of all units of the unit at each position; -1: not a unit, the gate is 1.
        whole: number of the group whose units are all the positions, in order, with ``block`` positions each; None: see
            ``index``.
    """

    name: str
    module: nn.Module
    width: int
    trailing: int
    output: bool = False
    dimension_1: bool = False
    index: Tensor = field(init=False)
    whole: int | None = None
    block: int = 1

    def __post_init__(self) -> None:
        self.index = torch.full((self.width,), -1, device="cpu")


def gate_places(layout: UnitLayout) -> list[GatePlace]:
    """The places of all gates of the groups of a layout.

    Raises:
        ValueError: a group with a norm over several units before which it cannot be gated.
    """
    places: dict[tuple[int, bool], GatePlace] = {}
    for number, group in enumerate(layout.groups):
        for slot in group.outgoing:
            trailing = slot.weight.ndim - 2 if isinstance(slot.module, CONV_LAYERS) else 0
            _add(places, GatePlace(slot.name, slot.module, slot.width, trailing), layout, number, slot)
        for coupling in group.couplings:
            _add_before(places, layout, number, coupling)
    for place in places.values():
        _simplify(place, layout)
    return list(places.values())


def _add(
    places: dict[tuple[int, bool], GatePlace], place: GatePlace, layout: UnitLayout, number: int, slot: Slot
) -> None:
    place = places.setdefault((id(place.module), place.output), place)
    layout.write_units(place.index, slot, number)


def _add_before(places: dict[tuple[int, bool], GatePlace], layout: UnitLayout, number: int, coupling: str) -> None:
    """Gates before a norm: at its input if that is known, otherwise at the outputs of the producers."""
    group = layout.groups[number]
    name = coupling.split(" ")[0]
    slot = next((each for each in group.scales if each.name == name), None)
    norm = None if slot is None else slot.module
    if slot is not None and isinstance(norm, _NORMS) and has_torch_forward(norm):
        if isinstance(norm, nn.GroupNorm):
            place = GatePlace(slot.name, norm, norm.num_channels, 0, dimension_1=True)
        else:
            shape = norm.normalized_shape
            place = GatePlace(slot.name, norm, shape[slot.dim], len(shape) - 1 - slot.dim)
        _add(places, place, layout, number, slot)
        return
    fault = _cannot_gate_producers(group, norm)
    if fault:
        raise ValueError(
            f"the units of group {group.name!r} are normalized together by {coupling}, so that gates must act before "
            f"it, and {fault}: leave the group out"
        )
    for slot in group.incoming:
        trailing = slot.weight.ndim - 2 if isinstance(slot.module, CONV_LAYERS) else 0
        width = slot.weight.shape[slot.dim]
        _add(places, GatePlace(slot.name, slot.module, width, trailing, output=True), layout, number, slot)


def _cannot_gate_producers(group: UnitGroup, norm: nn.Module | None) -> str | None:
    """Why gates at the producers' outputs would not fix what the norm reads of a gated unit; None if they do."""
    for slot in group.scales:
        if slot.module is not norm and not isinstance(slot.module, nn.PReLU):
            return f"{slot.name!r}, with parameters for each unit, may act before it"
    for slot in group.incoming:
        plain = isinstance(slot.module, WEIGHT_LAYERS) and has_torch_forward(slot.module)
        if not plain and not is_transposed_linear(slot.module):
            return f"the output of {slot.name!r} ({type(slot.module).__name__}) is not known to be a layer's"
    return None


def _simplify(place: GatePlace, layout: UnitLayout) -> None:
    """Find places where one group's units are all the positions in order."""
    for number, (start, size) in enumerate(zip(layout.starts, layout.sizes, strict=True)):
        if place.index.min() == start and place.width % size == 0:
            block = place.width // size
            if torch.equal(place.index, torch.arange(start, start + size, device="cpu").repeat_interleave(block)):
                place.whole, place.block = number, block


def gated_modules(places: Sequence[GatePlace]) -> list[nn.Module]:
    """The modules at which gates act."""
    return [place.module for place in places]
