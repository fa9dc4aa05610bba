"""Literal twins of continual backpropagation: one unit at a time, in float64, one line per equation.

`NatureAlgorithm` is Algorithm 1 of Dohare et al., "Loss of plasticity in deep continual learning", Nature 632
(2024), as printed. `ArxivEquations` is the method of Dohare et al., arXiv 2306.13812, equations (2)-(8).

Both use the papers' *sums* of |w|; gnt uses means. `mean_per_sum` is the exact factor between the two. It depends
only on the shapes, so it is the same for all units of a layer and does not change their ranking.

The papers describe one example at a time and fully connected layers. Here a unit's |h| is the mean over the batch
and, for a convolution, over the positions of its output; a unit whose feature map is flattened into a linear layer
owns one column of weights per position, and the contributions of its columns are added.

Arrays are views of the network's parameters: writing to them changes the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor, nn

Array = np.ndarray


class HiddenLayer:
    """One hidden layer: views of its units' weights, and the state of each unit."""

    def __init__(self, producer: nn.Module, consumer: nn.Module, norms: Sequence[nn.Module] = ()) -> None:
        self.incoming, self.bias = _view(producer.weight), _view(producer.bias)
        self.consumer_weight, self.consumer_bias = _view(consumer.weight), _view(consumer.bias)
        self.conv_groups = consumer.groups if hasattr(consumer, "groups") else None
        self.norms = norms
        self.num_units = n = len(self.incoming)
        self.positions = 1 if self.conv_groups else self.consumer_weight.shape[1] // n
        self.age = np.zeros(n, dtype=int)
        self.utility, self.corrected_utility = np.zeros(n), np.zeros(n)
        self.mean_feature, self.corrected_mean_feature = np.zeros(n), np.zeros(n)
        self.accumulated = 0.0
        self.movable: Sequence[bool] | None = None  # which entries of the consumer's bias; None: all

    def features(self, h: Array, i: int) -> list[Array]:
        """The features of unit i in a batch, one array for each of its columns of outgoing weights."""
        if self.conv_groups:
            return [h[:, i].reshape(-1)]
        return [h[:, i * self.positions + p] for p in range(self.positions)]

    def consumers(self, i: int) -> slice:
        """The consumer's units that read unit i: all, or those of its group in a grouped convolution."""
        if not self.conv_groups:
            return slice(0, len(self.consumer_weight))
        readers = len(self.consumer_weight) // self.conv_groups
        group = i // self.consumer_weight.shape[1]
        return slice(group * readers, (group + 1) * readers)

    def outgoing(self, i: int) -> list[Array]:
        """The columns of outgoing weights of unit i: one, or one for each position of its flattened feature map."""
        if self.conv_groups:
            return [self.consumer_weight[self.consumers(i), i % self.consumer_weight.shape[1]]]
        return [self.consumer_weight[:, i * self.positions + p] for p in range(self.positions)]

    def transfer_bias(self, i: int) -> None:
        """b_k += w_ki * f_hat_i, for every consumer k whose bias exists and may be moved."""
        if self.consumer_bias is None:
            return
        for column in self.outgoing(i):
            for k, w in zip(range(len(self.consumer_weight))[self.consumers(i)], column, strict=True):
                if self.movable is None or self.movable[k]:
                    self.consumer_bias[k] += w.sum() * self.corrected_mean_feature[i]

    def zero_outgoing(self, i: int) -> None:
        """w_ki = 0, for every consumer k."""
        for column in self.outgoing(i):
            column[:] = 0

    def reinitialize(self, i: int, incoming: Array) -> None:
        """Set the incoming weights, the bias to 0, and norm parameters and statistics to their initial values."""
        self.incoming[i] = incoming
        if self.bias is not None:
            self.bias[i] = 0
        for norm in self.norms:
            for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
                if getattr(norm, name, None) is not None:
                    _view(getattr(norm, name))[i] = value


def _view(parameter: Tensor | None) -> Array | None:
    return None if parameter is None else parameter.detach().numpy()


def sum_of_outgoing(layer: HiddenLayer, h: Array, i: int, f_hat: float) -> float:
    return sum(np.abs(w).sum() for w in layer.outgoing(i))


def contribution(layer: HiddenLayer, h: Array, i: int, f_hat: float) -> float:
    """|h_i| sum_k |w_ik|: equation (2), and equation (1) of the Nature paper."""
    pairs = zip(layer.features(h, i), layer.outgoing(i), strict=True)
    return sum(np.abs(values).mean() * np.abs(w).sum() for values, w in pairs)


def zero_contribution(layer: HiddenLayer, h: Array, i: int, f_hat: float) -> float:
    """|h_i - f_hat_i| sum_k |w_ik|: the mean-corrected contribution."""
    pairs = zip(layer.features(h, i), layer.outgoing(i), strict=True)
    return sum(np.abs(values - f_hat).mean() * np.abs(w).sum() for values, w in pairs)


def adaptation(layer: HiddenLayer, h: Array, i: int, f_hat: float) -> float:
    """1 / sum_j |w_ji|"""
    return 1 / np.abs(layer.incoming[i]).sum()


def adaptable_contribution(layer: HiddenLayer, h: Array, i: int, f_hat: float) -> float:
    """Equation (6)."""
    return zero_contribution(layer, h, i, f_hat) * adaptation(layer, h, i, f_hat)


def feature_by_input(layer: HiddenLayer, h: Array, i: int, f_hat: float) -> float:
    """|h_i - f_hat_i| / sum_j |w_ji|"""
    deviation = sum(np.abs(values - f_hat).mean() for values in layer.features(h, i))
    return deviation * adaptation(layer, h, i, f_hat)


MEASURES: dict[str, Callable[[HiddenLayer, Array, int, float], float]] = {
    "weight": sum_of_outgoing,
    "contribution": contribution,
    "zero_contribution": zero_contribution,
    "adaptation": adaptation,
    "adaptable_contribution": adaptable_contribution,
    "feature_by_input": feature_by_input,
}


def mean_per_sum(layer: HiddenLayer, utility: str) -> float:
    """gnt's utility (means of |w|, mean over a unit's columns) divided by the twin's (sums)."""
    fan_in = layer.incoming[0].size
    columns = len(layer.outgoing(0))
    fan_out = columns * layer.outgoing(0)[0].size
    return {
        "weight": 1 / fan_out,
        "contribution": 1 / fan_out,
        "zero_contribution": 1 / fan_out,
        "adaptation": fan_in,
        "adaptable_contribution": fan_in / fan_out,
        "feature_by_input": fan_in / columns,
    }[utility]


class NatureAlgorithm:
    """Algorithm 1 of Nature: no correction for age or mean, no bias transfer, at most one unit of a layer per step.

    As printed, the units of a layer are evaluated and replaced before those of the next layer are evaluated. (The
    contribution utility does not depend on incoming weights, so evaluating all layers first, as gnt does, is
    equivalent.)
    """

    def __init__(self, layers: Sequence[HiddenLayer], rate: float, maturity: int, decay: float) -> None:
        self.layers, self.rate, self.maturity, self.decay = layers, rate, maturity, decay

    def step(self, features: Sequence[Tensor], draw_incoming: Callable[[int], Array]) -> list[dict[int, Array]]:
        """Run what follows the optimizer's step. ``draw_incoming(l)`` draws incoming weights of layer l.

        Returns for each layer the replaced unit, if any, with its incoming weights.
        """
        replaced: list[dict[int, Array]] = [{} for _ in self.layers]
        for number, (layer, given) in enumerate(zip(self.layers, features, strict=True)):
            h = given.detach().numpy()
            for i in range(layer.num_units):
                layer.age[i] += 1
                y = contribution(layer, h, i, 0.0)
                layer.utility[i] = self.decay * layer.utility[i] + (1 - self.decay) * y
            eligible = [i for i in range(layer.num_units) if layer.age[i] > self.maturity]
            layer.accumulated += len(eligible) * self.rate
            layer.corrected_utility[:] = layer.utility  # selection uses the uncorrected utility
            if layer.accumulated > 1:
                r = min(eligible, key=lambda i: layer.utility[i])
                replaced[number][r] = draw_incoming(number)
                layer.reinitialize(r, replaced[number][r])
                layer.zero_outgoing(r)
                layer.utility[r] = 0
                layer.age[r] = 0
                layer.accumulated -= 1
        return replaced


class ArxivEquations:
    """The method of arXiv 2306.13812. All layers are evaluated before any unit is replaced.

    As printed, (8) divides u_{t-1}, the average before the update, by the correction for the current age. But
    1 - decay^a is the total weight of a updates, which the average after the update contains; so here, as in gnt
    and in the authors' code, u_t is divided, and likewise f_t.
    """

    def __init__(
        self,
        layers: Sequence[HiddenLayer],
        rate: float,
        maturity: int,
        decay: float,
        utility: str,
        *,
        accumulate: bool = True,
        bias_transfer: bool = True,
    ) -> None:
        self.layers, self.rate, self.maturity, self.decay = layers, rate, maturity, decay
        self.measure = MEASURES[utility]
        self.accumulate, self.bias_transfer = accumulate, bias_transfer

    def update(self, features: Sequence[Tensor]) -> None:
        eta = self.decay
        for layer, given in zip(self.layers, features, strict=True):
            h = given.detach().numpy()
            for i in range(layer.num_units):
                layer.age[i] += 1
                h_mean = np.mean(layer.features(h, i))
                layer.mean_feature[i] = eta * layer.mean_feature[i] + (1 - eta) * h_mean  # (3)
                f_hat = layer.mean_feature[i] / (1 - eta ** layer.age[i])  # (4)
                y = self.measure(layer, h, i, f_hat)  # (6)
                layer.utility[i] = eta * layer.utility[i] + (1 - eta) * y  # (7)
                layer.corrected_utility[i] = layer.utility[i] / (1 - eta ** layer.age[i])  # (8)
                layer.corrected_mean_feature[i] = f_hat

    def select(self) -> list[list[int]]:
        chosen = []
        for number, layer in enumerate(self.layers):
            eligible = [i for i in range(layer.num_units) if layer.age[i] > self.maturity]
            due = self.count(number, len(eligible))
            chosen.append(sorted(eligible, key=lambda i: layer.corrected_utility[i])[:due])
        return chosen

    def count(self, number: int, eligible: int) -> int:
        """The number of units of a layer to replace."""
        layer = self.layers[number]
        if not self.accumulate:
            whole, fraction = divmod(self.rate * eligible, 1.0)
            return int(whole) + (fraction > 0 and self.uniform(number) < fraction)
        layer.accumulated += self.rate * eligible
        due = int(layer.accumulated)
        layer.accumulated -= due
        return due

    def uniform(self, number: int) -> float:
        """A number drawn from [0, 1) for a layer."""
        raise NotImplementedError

    def replace(self, units: Sequence[Sequence[int]], incoming: Sequence[Array]) -> None:
        for layer, chosen, weights in zip(self.layers, units, incoming, strict=True):
            for i in chosen:
                if self.bias_transfer:
                    layer.transfer_bias(i)
                layer.zero_outgoing(i)
            for i, new in zip(chosen, weights, strict=True):
                layer.reinitialize(i, new)
                layer.age[i] = 0
                layer.utility[i] = 0
                layer.mean_feature[i] = 0
