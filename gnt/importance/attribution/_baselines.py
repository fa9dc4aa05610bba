"""Baseline inputs of an attribution, and points between them and the inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gnt.units import ModelInputs


class Baselines:
    """The inputs ``x`` with the baselines that they are compared with.

    Args:
        x: the inputs.
        baselines: those given, or None for zeros.
        method: name of the attribution, for messages.
        number: what the method takes: "none", "one", "several", "one or several".
    """

    def __init__(self, x: ModelInputs, baselines: ModelInputs | None, method: str, number: str) -> None:
        if number == "none":
            return
        self._keys = list(x) if isinstance(x, Mapping) else list(range(len(x))) if isinstance(x, tuple) else [None]
        self._x = x
        self._tensors: list[Any] = _parts(x)
        moving = [self._moves(part) for part in self._tensors]
        if not any(moving):
            raise ValueError(f"{method!r} needs floating point inputs to compare with a baseline, and x has none")
        sizes = {len(part) for part, moves in zip(self._tensors, moving, strict=True) if moves}
        if len(sizes - {1}) > 1:
            raise ValueError(
                f"{method!r} moves all floating point inputs from a baseline to x, so they must have equally many "
                f"samples, or one for all, got {sorted(sizes)}: set others inside the model"
            )
        self._size = next(iter(sizes - {1}), 1)
        self._given: list[Any] = (
            [
                part.new_zeros(1, *part.shape[1:]) if moves else part
                for part, moves in zip(self._tensors, moving, strict=True)
            ]
            if baselines is None
            else self._checked(baselines, several=number != "one")
        )

    def _checked(self, baselines: ModelInputs, *, several: bool) -> list[Any]:
        given = _parts(baselines)
        same = type(baselines) is type(self._x) or isinstance(baselines, Tensor) == isinstance(self._x, Tensor)
        if not same or len(given) != len(self._tensors):
            raise ValueError(f"baselines must have the structure of x, got {type(baselines).__name__}")
        if isinstance(self._x, Mapping) and isinstance(baselines, Mapping):
            if set(baselines) != set(self._x):
                raise ValueError(f"baselines must have the keys of x, {list(self._x)}, got {list(baselines)}")
            given = [baselines[key] for key in self._x]
        checked = []
        sizes = set()
        for part, own in zip(given, self._tensors, strict=True):
            if not self._moves(own):
                checked.append(own)
                continue
            if (
                not isinstance(part, Tensor)
                or part.shape[1:] != own.shape[1:]
                or part.ndim != own.ndim
                or not len(part)
            ):
                got = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
                raise ValueError(f"baselines must have the shape of samples, (..., {tuple(own.shape[1:])}), got {got}")
            sizes.add(len(part))
            checked.append(part.detach().to(own))
        if len(sizes) > 1 or (not several and sizes - {1, self._size}):
            allowed = "equally many" if several else f"1 or {self._size}"
            raise ValueError(f"baselines must be {allowed} for all inputs, got {sorted(sizes)}")
        return checked

    def _moves(self, part: Any) -> bool:
        return isinstance(part, Tensor) and part.is_floating_point() and part.ndim > 0

    def _made(self, parts: list[Any]) -> Any:
        if isinstance(self._x, Mapping):
            return dict(zip(self._keys, parts, strict=True))
        return tuple(parts) if isinstance(self._x, tuple) else parts[0]

    def for_each_sample(self) -> Any:
        """One baseline for each sample, in the structure of ``x``."""
        return self._rows(
            torch.arange(self._size, device="cpu")
            if self.count == self._size
            else torch.zeros(self._size, device="cpu").long()
        )

    @property
    def count(self) -> int:
        """Number of baselines."""
        pairs = zip(self._given, self._tensors, strict=True)
        return next(len(given) for given, own in pairs if self._moves(own))

    def each_for_all_samples(self) -> Iterator[Any]:
        """Each baseline in turn, repeated for all samples."""
        for number in range(self.count):
            yield self._rows(torch.full((self._size,), number, device="cpu"))

    def draws(self, n: int, generator: torch.Generator | None) -> tuple[list[Any], list[Tensor]]:
        """For each of ``n`` draws a baseline for each sample, drawn from all of them, and a position u on the path."""
        device = "cpu" if generator is None else generator.device
        baselines: list[Any] = []
        positions = []
        for _ in range(n):
            if self.count == 1:
                baselines.append(baselines[0] if baselines else self.for_each_sample())
            else:
                baselines.append(
                    self._rows(torch.randint(self.count, (self._size,), generator=generator, device=device))
                )
            positions.append(torch.rand(self._size, generator=generator, device=device, dtype=torch.float64))
        return baselines, positions

    def _rows(self, rows: Tensor) -> Any:
        pairs = zip(self._given, self._tensors, strict=True)
        return self._made([given[rows.to(given.device)] if self._moves(own) else own for given, own in pairs])

    def between(self, baseline: ModelInputs, x: ModelInputs, position: Any) -> Any:
        """Baseline + position * (x - baseline); ``position`` is a number, or one for each sample, (N,)."""
        points = []
        for start, end in zip(_parts(baseline), _parts(x), strict=True):
            if not self._moves(end):
                points.append(end)
                continue
            at = position
            if isinstance(at, Tensor):
                at = at.to(end).view(-1, *(1,) * (end.ndim - 1))
            points.append(start + at * (end - start))
        return self._made(points)


def _parts(x: Any) -> list[Any]:
    if isinstance(x, Mapping):
        return list(x.values())
    return list(x) if isinstance(x, tuple) else [x]
