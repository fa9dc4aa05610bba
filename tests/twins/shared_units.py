"""Literal twin of one update for units with several producers, several consumers and several taps.

Loops over units, consumers and single weights, in float64. As in the paper, a unit's contribution is the sum over its
outgoing weights of mean |h| * |w|, where h is the input of the weight's own consumer. The sum is divided by the number
of outgoing weights of the unit, which makes it a mean.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gnt.units import Slot, UnitGroup


def positions(slot: Slot, unit: int) -> list[int]:
    if slot.positions is not None:
        return slot.positions[unit].tolist()
    return [slot.offset + unit * slot.block + j for j in range(slot.block)]


def weights_of(slot: Slot, unit: int) -> list[tuple[int, Tensor]]:
    """For each position of a unit: the position and all weights at it, flat."""
    weight = slot.weight.detach().double()
    if slot.groups == 1:
        return [(p, weight.select(slot.dim, p).flatten()) for p in positions(slot, unit)]
    per_group, outputs = weight.shape[1], weight.shape[0] // slot.groups
    found = []
    for p in positions(slot, unit):
        group, channel = divmod(p, per_group)
        found.append((p, weight[group * outputs : (group + 1) * outputs, channel].flatten()))
    return found


def values_of(feature: Tensor, position: int, conv: bool) -> Tensor:
    """All values that a consumer reads at a position, over samples and spatial positions, flat."""
    feature = feature.double()
    return feature.select(1 if conv else -1, position).flatten()


def mean_features(group: UnitGroup, features: Sequence[Tensor]) -> list[list[float]]:
    """The mean feature of each unit, for each tap."""
    means = []
    for slot, feature in zip(group.taps, features, strict=True):
        conv = slot.weight.ndim > 2
        per_unit = []
        for unit in range(group.num_units):
            seen = [values_of(feature, p, conv).mean().item() for p in positions(slot, unit)]
            per_unit.append(sum(seen) / len(seen))
        means.append(per_unit)
    return means


def utilities(group: UnitGroup, features: Sequence[Tensor], centers: list[list[float]], measure: str) -> list[float]:
    """The measure of each unit in one update; ``centers`` are the corrected mean features, by tap and unit."""
    numbers = list(dict.fromkeys(slot.tap for slot in group.outgoing))
    found = []
    for unit in range(group.num_units):
        contribution = deviation = outgoing = count = spread = num_positions = 0.0
        for slot in group.outgoing:
            tap = numbers.index(slot.tap)
            for position, weights in weights_of(slot, unit):
                values = values_of(features[tap], position, slot.weight.ndim > 2)
                for weight in weights.tolist():
                    contribution += values.abs().mean().item() * abs(weight)
                    deviation += (values - centers[tap][unit]).abs().mean().item() * abs(weight)
                    outgoing += abs(weight)
                    count += 1
                spread += (values - centers[tap][unit]).abs().mean().item()
                num_positions += 1
        incoming = [abs(w) for slot in group.incoming for _, row in weights_of(slot, unit) for w in row.tolist()]
        magnitude = sum(incoming) / len(incoming)
        found.append(
            {
                "contribution": contribution / count,
                "uncorrected_contribution": contribution,
                "weight": outgoing / count,
                "adaptation": 1 / magnitude,
                "zero_contribution": deviation / count,
                "adaptable_contribution": deviation / count / magnitude,
                "feature_by_input": spread / num_positions / magnitude,
            }[measure]
        )
    return found
