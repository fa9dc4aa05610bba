"""Literal twin of Algorithm 1 of Dohare et al., Nature 632 (2024): one line of code for each line of the paper.

In float64, on plain matrices: ``weights[l]`` has torch's shape (n_l+1, n_l), so w_l,i,k of the paper, from unit i of
layer l to unit k of the next, is ``weights[l + 1][k, i]``. ``h[l]`` are the features of layer l for a batch; |h_l,i| is
the mean over the batch. The code is independent of gnt and of the other twins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray


class Algorithm1:
    def __init__(self, weights: Sequence[Array], biases: Sequence[Array], rho: float, m: int, eta: float) -> None:
        self.weights, self.biases, self.rho, self.m, self.eta = weights, biases, rho, m, eta
        self.hidden = len(weights) - 1
        self.u = [np.zeros(len(w)) for w in weights[:-1]]
        self.a = [np.zeros(len(w), dtype=int) for w in weights[:-1]]
        self.c = [0.0] * self.hidden
        self.closest = np.inf  # the smallest relative gap between the two lowest utilities of a selection

    def step(self, h: Sequence[Array], sample: Callable[[int], Array]) -> list[list[int]]:
        """Run what follows an SGD step; ``sample(l)`` draws incoming weights of layer l. Returns the replaced units."""
        replaced: list[list[int]] = [[] for _ in range(self.hidden)]
        for l in range(self.hidden):  # noqa: E741
            self.a[l] += 1
            for i in range(len(self.u[l])):
                out = sum(abs(self.weights[l + 1][k, i]) for k in range(len(self.weights[l + 1])))
                self.u[l][i] = self.eta * self.u[l][i] + (1 - self.eta) * np.abs(h[l][:, i]).mean() * out
            eligible = [i for i in range(len(self.u[l])) if self.a[l][i] > self.m]
            self.c[l] = self.c[l] + len(eligible) * self.rho
            if self.c[l] > 1 and eligible:
                r = min(eligible, key=lambda i: self.u[l][i])
                self.record_gap(l, r, eligible)
                self.weights[l][r, :] = sample(l)
                self.biases[l][r] = 0
                self.weights[l + 1][:, r] = 0
                self.u[l][r] = 0
                self.a[l][r] = 0
                self.c[l] = self.c[l] - 1
                replaced[l].append(r)
        return replaced

    def record_gap(self, layer: int, r: int, eligible: Sequence[int]) -> None:
        """Record the gap between the two lowest utilities: a selection among equal utilities is no evidence."""
        others = [self.u[layer][i] for i in eligible if i != r]
        if others:
            self.closest = min(self.closest, (min(others) - self.u[layer][r]) / min(others))
