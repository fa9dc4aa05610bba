"""Literal twin of continual backpropagation where layers run in turn: one unit at a time, in float64.

A group takes part in a step if at least one layer that reads its units ran in it, and no weight of it is frozen. If it
takes no part, nothing of it changes. If it does, its age counts the step, and the measure is that of the layers that
ran. The mean feature of a tap (a value of the unit that some layers read) is the average over the steps in which one of
these layers ran. All layers are linear.

Only each k-th step in which the group takes part is measured, with the decay rate decay^k; in the others it only ages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

Array = np.ndarray
Seen = Mapping[nn.Module, Mapping[int, Tensor]]  # what each layer read in a step, by the number of the forward


@dataclass
class Reader:
    """A layer that reads unit i at input ``offset + i``."""

    layer: nn.Linear
    tap: int
    offset: int

    def outgoing(self, i: int) -> Array:
        return self.layer.weight.detach().numpy()[:, self.offset + i]


@dataclass
class TwinGroup:
    """The units of one layer, and the state of each; mean features and missed steps also for each tap."""

    producer: nn.Linear
    readers: list[Reader]
    updates: int = 0
    accumulated: float = 0.0
    took_part: bool = False
    age: list[int] = field(init=False)
    measured: list[int] = field(init=False)
    last_active: list[int] = field(init=False)
    utility: list[float] = field(init=False)
    mean_feature: dict[int, list[float]] = field(init=False)
    missed: dict[int, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        n, self.taps = len(self.producer.weight), list(dict.fromkeys(reader.tap for reader in self.readers))
        self.age, self.last_active, self.utility = [0] * n, [0] * n, [0.0] * n
        self.measured = [0] * n
        self.mean_feature = {tap: [0.0] * n for tap in self.taps}
        self.missed = {tap: [0] * n for tap in self.taps}

    @property
    def frozen(self) -> bool:
        return not all(layer.weight.requires_grad for layer in (self.producer, *(r.layer for r in self.readers)))

    def values(self, seen: Seen, tap: int, i: int) -> Array:
        """All values of unit i at a tap in this step.

        A forward counts once, however many layers read the unit in it, except that layers that read it at another input
        count for themselves.
        """
        forwards: dict[tuple[int, int], Array] = {}
        for reader in (reader for reader in self.readers if reader.tap == tap):
            for number, read in seen.get(reader.layer, {}).items():
                forwards[number, reader.offset] = read.detach().numpy()[:, reader.offset + i]
        return np.concatenate(list(forwards.values()))

    def corrected_mean(self, tap: int, i: int, decay: float) -> float:
        steps = self.measured[i] - self.missed[tap][i]
        return self.mean_feature[tap][i] / (1 - decay**steps) if steps else 0.0

    def corrected_utility(self, i: int, decay: float) -> float:
        return self.utility[i] / (1 - decay ** self.measured[i]) if self.measured[i] else 0.0


Values = Mapping[int, Array]  # of one unit, by tap; only taps of layers that ran
Centers = Mapping[int, float]


def contribution(group: TwinGroup, i: int, h: Values, f_hat: Centers) -> float:
    readers = [reader for reader in group.readers if reader.tap in h]
    total = sum(np.abs(h[r.tap]).mean() * np.abs(r.outgoing(i)).sum() for r in readers)
    return float(total / sum(len(r.outgoing(i)) for r in readers))


def zero_contribution(group: TwinGroup, i: int, h: Values, f_hat: Centers) -> float:
    return contribution(group, i, {tap: h[tap] - f_hat[tap] for tap in h}, f_hat)


def weight(group: TwinGroup, i: int, h: Values, f_hat: Centers) -> float:
    return contribution(group, i, {tap: np.ones(1) for tap in h}, f_hat)


def adaptation(group: TwinGroup, i: int, h: Values, f_hat: Centers) -> float:
    return float(1 / np.abs(group.producer.weight.detach().numpy()[i]).mean())


def adaptable_contribution(group: TwinGroup, i: int, h: Values, f_hat: Centers) -> float:
    return zero_contribution(group, i, h, f_hat) * adaptation(group, i, h, f_hat)


def feature_by_input(group: TwinGroup, i: int, h: Values, f_hat: Centers) -> float:
    deviations = [np.abs(h[r.tap] - f_hat[r.tap]).mean() for r in group.readers if r.tap in h]
    return float(np.mean(deviations)) * adaptation(group, i, h, f_hat)


MEASURES: dict[str, Callable[[TwinGroup, int, Values, Centers], float]] = {
    each.__name__: each
    for each in (contribution, zero_contribution, weight, adaptation, adaptable_contribution, feature_by_input)
}


class InTurn:
    def __init__(
        self, groups: Sequence[TwinGroup], rate: float, maturity: int, decay: float, utility: str, every: int = 1
    ) -> None:
        self.groups, self.rate, self.maturity = groups, rate, maturity
        self.every, self.decay = every, decay**every
        self.measure = MEASURES[utility]

    def update(self, seen: Seen) -> None:
        for group in self.groups:
            ran = [tap for tap in group.taps if any(r.tap == tap and seen.get(r.layer) for r in group.readers)]
            group.took_part = bool(ran) and not group.frozen
            if not group.took_part:
                continue
            group.updates += 1
            for i in range(len(group.age)):
                group.age[i] += 1
                if group.updates % self.every == 0:
                    self.measure_unit(group, i, {tap: group.values(seen, tap, i) for tap in ran})

    def measure_unit(self, group: TwinGroup, i: int, h: Values) -> None:
        group.measured[i] += 1
        for tap in group.taps:
            if tap not in h:
                group.missed[tap][i] += 1
            else:
                mean = float(h[tap].mean())
                group.mean_feature[tap][i] = self.decay * group.mean_feature[tap][i] + (1 - self.decay) * mean
                if mean != 0:
                    group.last_active[i] = group.updates
        y = self.measure(group, i, h, {tap: group.corrected_mean(tap, i, self.decay) for tap in h})
        group.utility[i] = self.decay * group.utility[i] + (1 - self.decay) * y

    def select(self) -> list[list[int]]:
        chosen = []
        for group in self.groups:
            eligible = [i for i in range(len(group.age)) if group.age[i] > self.maturity]
            due = 0
            if group.took_part and eligible:
                group.accumulated += self.rate * len(eligible)
                due = int(group.accumulated)
                group.accumulated -= due
            chosen.append(sorted(eligible, key=lambda i: group.corrected_utility(i, self.decay))[:due])
        return chosen

    def replace(self, units: Sequence[Sequence[int]], incoming: Sequence[Array]) -> None:
        """``incoming``: the new weights of each group's units, which are random draws."""
        for group, chosen, rows in zip(self.groups, units, incoming, strict=True):
            for i in chosen:
                for reader in group.readers:
                    if reader.layer.bias is not None:
                        change = reader.outgoing(i) * group.corrected_mean(reader.tap, i, self.decay)
                        reader.layer.bias.detach().numpy()[:] += change
                for reader in group.readers:
                    reader.outgoing(i)[:] = 0
            for i, row in zip(chosen, rows, strict=True):
                group.producer.weight.detach().numpy()[i] = row
                group.producer.bias.detach().numpy()[i] = 0
                group.age[i], group.utility[i], group.last_active[i] = 0, 0.0, group.updates
                group.measured[i] = 0
                for tap in group.taps:
                    group.mean_feature[tap][i], group.missed[tap][i] = 0.0, 0
