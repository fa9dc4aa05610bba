"""`SlotInit`: from which distributions the units at one slot get new weights and biases, and the draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnt.distributed import dtensor
from gnt.initialization._distribution import SMALL_STD, Distribution
from gnt.initialization._fit import Sample, constant_value, fit
from gnt.initialization._known import known_distributions
from gnt.initialization._layer_defaults import init_distribution
from gnt.initialization._names import Fill, Init, fans, init_name, named_distribution
from gnt.units import Slot, UnitGroup

ZERO = Distribution("constant", 0.0)
_OWN_FITS = "torch's own: fits the layer's weights"
USUAL_INIT = f"({_OWN_FITS})"  # how the text of a `SlotInit` ends that says nothing special


@dataclass(frozen=True)
class SlotInit:
    """Initial distributions of new units at one slot.

    Attributes:
        weights: of their weights, for each member (one, except in an ensemble); or a function.
        biases: of their biases, for each member.
        reason: where ``weights`` are from, as a phrase that follows them in a report.
    """

    weights: tuple[Distribution | Fill, ...]
    biases: tuple[Distribution, ...]
    reason: str

    def __str__(self) -> str:
        named = dict.fromkeys(str(each) if isinstance(each, Distribution) else init_name(each) for each in self.weights)
        biases = (
            ""
            if self.biases == (ZERO,) * len(self.biases)
            else f"; bias: {' or '.join(dict.fromkeys(map(str, self.biases)))}"
        )
        return f"{' or '.join(named)} ({self.reason}){biases}"


@torch.no_grad()
def find_slot_init(group: UnitGroup, slot: Slot, init: Init, bias_init: str, members: int = 1) -> SlotInit:
    """Choose the distributions for the units of a group at ``slot``; reads present values at most once for each.

    Args:
        group: the group.
        slot: one of ``group.drawn``.
        init: "auto", a name, or a function.
        bias_init: "zero" or "initial".
        members: number of networks whose weights the layer holds one after the other, along the units' dimension.

    Raises:
        ValueError: ``init`` needs the gain of an unknown activation.
    """
    weights: Sequence[Distribution | Fill]
    if init == "auto":
        weights, reason = _fitting_weights(group, slot, members)
    else:
        activation = slot.activation or group.activation
        chosen = named_distribution(init, slot, activation, group.name) if isinstance(init, str) else init
        weights, reason = [chosen] * members, f"init={init_name(init)}"
    biases = [ZERO] * members if bias_init == "zero" else _fitting_biases(slot, members)
    return SlotInit(tuple(weights), tuple(biases), reason)


def _fitting_weights(group: UnitGroup, slot: Slot, members: int) -> tuple[list[Distribution], str]:
    own = init_distribution(slot.module, "weight") or Distribution("uniform", 1.0 / math.sqrt(max(fans(slot)[0], 1)))
    known = known_distributions(slot, slot.activation or group.activation, members)
    disadvantages = {distribution: each.disadvantage for distribution, each in known.items()}
    found: list[Distribution] = []
    reasons: dict[str, None] = {}
    for sample in _samples(slot.weight, slot.dim, members):
        fitting = None if sample is None else fit(sample, own, disadvantages)
        found.append(fitting or own)
        if fitting is None:
            reasons["torch's own: no known distribution fits the layer's weights"] = None
        else:
            name = known[fitting].name if fitting in known else "measured"
            reasons[_OWN_FITS if fitting == own else f"{name}: fits the layer's weights"] = None
    return found, "; or ".join(reasons)


def _fitting_biases(slot: Slot, members: int) -> list[Distribution]:
    if slot.bias is None:
        return [ZERO] * members
    own = init_distribution(slot.module, "bias")
    known = {Distribution("normal", SMALL_STD): 0.0}
    found = []
    for sample in _samples(slot.bias, 0, members):
        value = None if sample is None else constant_value(sample)
        fitting = None if sample is None or value is not None else fit(sample, own, known)
        found.append(Distribution("constant", value) if value is not None else fitting or own or ZERO)
    return found


def _samples(parameter: Tensor, dim: int, members: int) -> list[Sample | None]:
    """A sample of each member's values, units first; None if there are none to be read."""
    values = parameter.detach()
    if dtensor.is_dtensor(values):
        values = values.full_tensor()  # type: ignore[attr-defined]
    if values.is_meta or not values.numel() or not values.is_floating_point():
        return [None] * members
    return [
        Sample.read(each.flatten(1) if each.ndim > 1 else each[:, None])
        for each in values.movedim(dim, 0).chunk(members)
    ]


def draw_weights(slot: Slot, init: SlotInit, counts: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """New weights for as many units of each member, from its generator: (sum of counts * block, *shape of a unit).

    Raises:
        ValueError: as `fill_weights`.
    """
    weight = slot.weight
    shape = (sum(counts) * slot.block, *slot.rest)
    drawn = torch.empty(shape, dtype=_wide(weight.dtype), device=generators[0].device)
    fill_weights(torch.split(drawn, [count * slot.block for count in counts]), slot, init, generators)
    return drawn.to(weight.device, weight.dtype, non_blocking=True)


def fill_weights(
    drawn: Tensor | Sequence[Tensor], slot: Slot, init: SlotInit, generators: Sequence[torch.Generator]
) -> None:
    """Fill ``drawn`` with new weights, for each member (units * block, *shape of a unit), on the generators' device.

    Raises:
        ValueError: a function did not fill its tensor, changed its shape, made it require a gradient, or (seen on the
            CPU only) left values that are not finite.
    """
    weight = slot.weight
    layer_rows = weight.shape[slot.dim] // len(generators)
    for rows, generator, distribution in zip(drawn, generators, init.weights, strict=True):
        if not len(rows):
            continue
        if isinstance(distribution, Distribution):
            distribution.fill_(rows, generator, stored=weight.dtype, layer_rows=layer_rows)
        else:
            _fill_by_function(distribution, rows, slot, generator)


def draw_biases(
    slot: Slot, init: SlotInit, counts: Sequence[int], generators: Sequence[torch.Generator]
) -> Tensor | None:
    """New biases for as many units of each member: (sum of counts * block,); None: all 0."""
    if not draws_biases(slot, init):
        return None
    assert slot.bias is not None
    stored = slot.bias.dtype
    drawn = torch.empty(sum(counts) * slot.block, dtype=_wide(stored), device=generators[0].device)
    fill_biases(torch.split(drawn, [count * slot.block for count in counts]), slot, init, generators)
    return drawn.to(slot.bias.device, stored, non_blocking=True)


def draws_biases(slot: Slot, init: SlotInit) -> bool:
    """True if the biases of new units are drawn; otherwise they are 0."""
    return slot.bias is not None and init.biases != (ZERO,) * len(init.biases)


def fill_biases(
    drawn: Tensor | Sequence[Tensor], slot: Slot, init: SlotInit, generators: Sequence[torch.Generator]
) -> None:
    """Fill ``drawn`` with new biases, for each member (units * block,), on the generators' device."""
    assert slot.bias is not None
    for values, generator, distribution in zip(drawn, generators, init.biases, strict=True):
        if len(values):
            distribution.fill_(values, generator, stored=slot.bias.dtype, layer_rows=len(values))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _fill_by_function(function: Fill, rows: Tensor, slot: Slot, generator: torch.Generator) -> None:
    """Let a user's function fill ``rows``, and check what it did. Values are read on the CPU only."""
    rows.fill_(math.nan)  # so that rows that were not filled are seen
    shape, version = rows.shape, rows._version
    function(rows, slot, generator)
    fault = None
    if rows._version == version:
        fault = "did not fill its tensor in place"
    elif rows.shape != shape:
        fault = f"changed its tensor's shape from {tuple(shape)} to {tuple(rows.shape)}"
    elif rows.requires_grad:
        fault = "made its tensor require a gradient"
    elif rows.device.type == "cpu" and not rows.isfinite().all():
        count = int((~rows.isfinite()).sum())
        fault = f"left {count} of {rows.numel()} values of its tensor that are not finite"
    if fault is not None:
        raise ValueError(f"init {init_name(function)} {fault}, for {slot.name!r}; nothing was replaced")
