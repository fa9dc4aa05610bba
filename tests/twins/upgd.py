"""Literal twin of UPGD (arXiv 2404.00781, Algorithm 1): one weight at a time, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

Array = np.ndarray


class TwinUPGD:
    """The weights of one network."""

    def __init__(self, weights: Sequence[Array], **options: Any) -> None:
        self.weights = [each.copy() for each in weights]
        self.utilities = [np.zeros(each.shape) for each in weights]
        self.means = [np.zeros(each.shape) for each in weights]
        self.squares = [np.zeros(each.shape) for each in weights]
        self.options, self.steps = options, 0

    def step(self, gradients: Sequence[Array], noises: Sequence[Array]) -> None:
        """One step with given gradients and standard normal noise."""
        o = self.options
        self.steps += 1
        decay, correction = o["decay_rate"], 1 - o["decay_rate"] ** self.steps
        largest = -math.inf
        for u, g, w in zip(self.utilities, gradients, self.weights, strict=True):
            for i in np.ndindex(w.shape):
                u[i] = decay * u[i] + (1 - decay) * (-g[i] * w[i])
                largest = max(largest, u[i] / correction)
        largest = max(largest, 1.1754943508222875e-38)
        for number, (g, n, w) in enumerate(zip(gradients, noises, self.weights, strict=True)):
            u = self.utilities[number] / correction
            for i in np.ndindex(w.shape):
                if o["scaling"] == "global":
                    scaled = u[i] / largest
                else:
                    scaled = u[i] / max(math.sqrt(sum(u[(*i[:-1], k)] ** 2 for k in range(w.shape[-1]))), 1e-12)
                free = 1 - 1 / (1 + math.exp(-scaled))
                noise, direction = o["sigma"] * n[i], self.direction(number, i, g[i])
                change = (direction + noise) * free if o["protecting"] else direction + noise * free
                w[i] = (1 - o["lr"] * o["weight_decay"]) * w[i] - o["factor"] * o["lr"] * change

    def direction(self, number: int, i: tuple[int, ...], gradient: float) -> float:
        """The gradient, or Adam's step."""
        if self.options["betas"] is None:
            return gradient
        first, second = self.options["betas"]
        m, v = self.means[number], self.squares[number]
        m[i] = first * m[i] + (1 - first) * gradient
        v[i] = second * v[i] + (1 - second) * gradient**2
        root = math.sqrt(v[i] / (1 - second**self.steps))
        return m[i] / (1 - first**self.steps) / (root + self.options["eps"])


def philox_normal(count: int, key: int, stream: int, dtype: torch.dtype) -> Array:
    """The noise of gnt's kernel for one parameter: Philox4x32-10 and the transform of Box and Muller.

    Args:
        count: number of weights.
        key: the number that was drawn from the generator.
        stream: position of the parameter.
        dtype: float32 takes 24 of 32 random bits.
    """
    out = np.empty((-(-count // 1024), 4, 256))
    for tile in range(len(out)):
        for lane in range(256):
            words = philox((tile * 256 + lane) & 0xFFFFFFFF, 0, stream, 0, key)
            for pair in range(2):
                first, second = words[2 * pair : 2 * pair + 2]
                if dtype is torch.float32:
                    first, second = (first >> 8) * 256 + 255, (second >> 8) * 256
                radius, angle = math.sqrt(-2 * math.log((first + 1) / 2**32)), 2 * math.pi * second / 2**32
                out[tile, 2 * pair, lane] = radius * math.cos(angle)
                out[tile, 2 * pair + 1, lane] = radius * math.sin(angle)
    return out.reshape(-1)[:count]


def philox(a: int, b: int, c: int, d: int, key: int) -> tuple[int, int, int, int]:
    """Philox4x32-10 (Salmon et al., SC 2011).

    >>> [f"{word:08x}" for word in philox(0, 0, 0, 0, 0)]  # the authors' known answer
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    k, m = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p, r = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (r >> 32) ^ b ^ k, r & 0xFFFFFFFF, (p >> 32) ^ d ^ m, p & 0xFFFFFFFF
        k, m = (k + 0x9E3779B9) & 0xFFFFFFFF, (m + 0xBB67AE85) & 0xFFFFFFFF
    return a, b, c, d
