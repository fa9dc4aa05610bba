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


def weights_of(slot: Slot, unit: int, of: Tensor | None = None) -> list[tuple[int, Tensor]]:
    """For each position of a unit: the position and all weights at it (or their gradients ``of``), flat."""
    weight = (slot.weight if of is None else of).detach().double()
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
        contribution = deviation = outgoing = count = spread = num_positions = activation = 0.0
        out_gradient = out_square = active_square = 0.0
        for slot in group.outgoing:
            tap = numbers.index(slot.tap)
            gradients = slot.weight if slot.weight.grad is None else slot.weight.grad
            pairs = zip(weights_of(slot, unit), weights_of(slot, unit, gradients), strict=True)
            for (position, weights), (_, grads) in pairs:
                values = values_of(features[tap], position, slot.weight.ndim > 2)
                for weight, grad in zip(weights.tolist(), grads.tolist(), strict=True):
                    contribution += values.abs().mean().item() * abs(weight)
                    deviation += (values - centers[tap][unit]).abs().mean().item() * abs(weight)
                    outgoing += abs(weight)
                    out_gradient += abs(grad)
                    out_square += grad**2
                    active_square += values.abs().mean().item() * grad**2
                    count += 1
                spread += (values - centers[tap][unit]).abs().mean().item()
                activation += values.abs().mean().item()
                num_positions += 1
        incoming = [abs(w) for slot in group.incoming for _, row in weights_of(slot, unit) for w in row.tolist()]
        in_gradients = [
            g
            for slot in group.incoming
            if slot.weight.grad is not None
            for _, row in weights_of(slot, unit, slot.weight.grad)
            for g in row.tolist()
        ]
        magnitude, activation = sum(incoming) / len(incoming), activation / num_positions
        in_square = sum(g**2 for g in in_gradients) / len(incoming)
        found.append(
            {
                "contribution": contribution / count,
                "uncorrected_contribution": contribution,
                "incoming_contribution": activation * magnitude,
                "adaptive_contribution": contribution / count / magnitude,
                "activation": activation,
                "weight": outgoing / count,
                "incoming_weight": magnitude,
                "adaptation": 1 / magnitude,
                "zero_contribution": deviation / count,
                "adaptable_contribution": deviation / count / magnitude,
                "feature_by_input": spread / num_positions / magnitude,
                "incoming_gradient": sum(map(abs, in_gradients)) / len(incoming),
                "outgoing_gradient": out_gradient / count,
                "incoming_fisher": in_square,
                "outgoing_fisher": out_square / count,
                "incoming_fisher_activation": activation * in_square,
                "outgoing_fisher_activation": active_square / count,
            }[measure]
        )
    return found
