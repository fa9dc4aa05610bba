"""Forwards of a network for attributions, and the values of its output that are attributed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from gnt.importance.attribution._reads import Read, Replace, reads_of
from gnt.units import ModelInputs, UnitGroup, isolated, map_tensors, unwrap

Target = Tensor | Callable[[Any], Tensor] | None


class Evaluation:
    """A network with the groups and samples of one attribution.

    The forwards use detached weights, so that a tensor requires gradients exactly if it depends on what some consumer
    of the groups reads.

    Args:
        model: the network.
        groups: its unit groups.
        x: the inputs.
        target: which values of the output are attributed: class indices (N,), a function of the output that returns
            one value per sample, or None for outputs of one value per sample.

    Attributes:
        groups, x, target: the arguments; the tensors of ``x`` are detached.
        mixes_samples: what one sample gives depends on the others, by a batch norm without running statistics.
    """

    def __init__(self, model: nn.Module, groups: Sequence[UnitGroup], x: ModelInputs, target: Target) -> None:
        self._model = unwrap(model)
        self.groups = groups
        self.target = target.long() if isinstance(target, Tensor) else target  # a uint8 index would be a mask
        self._in_range = False  # True once the classes of the target have been compared with the output
        self.x = map_tensors(x, _detached)
        self._weights = {name: parameter.detach() for name, parameter in self._model.named_parameters()}
        norms = (module for module in self._model.modules() if isinstance(module, _BatchNorm))
        self.mixes_samples = any(norm.running_mean is None for norm in norms)

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Evaluation mode; on exit modes, buffers, attributes and generators are as before."""
        with isolated(self._model, self.groups[0].incoming[0].weight.device), torch.enable_grad():
            yield

    def output(self, x: ModelInputs, replace: Replace | None = None) -> tuple[Any, list[Read]]:
        """The output for ``x``, and what consumers have read."""
        args, kwargs = ((), dict(x)) if isinstance(x, Mapping) else ((x if isinstance(x, tuple) else (x,)), {})
        with reads_of(self.groups, replace) as reads:
            output = functional_call(self._model, self._weights, args, kwargs)
        return output, reads

    def values(self, output: Any) -> Tensor:
        """The attributed value of each sample, (N,)."""
        if callable(self.target) and not isinstance(self.target, Tensor):
            values = self.target(output)
            if not isinstance(values, Tensor) or values.ndim != 1:
                got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise ValueError(f"target(output) must return one value per sample, a tensor (N,), got {got}")
            if not values.is_floating_point():
                raise ValueError(f"target(output) must return floating point values, got {values.dtype}")
            if isinstance(output, Tensor) and output.requires_grad and not values.requires_grad:
                raise ValueError(
                    "target(output) must return values that depend on the output differentiably, got values that do "
                    "not require gradients"
                )
            return values
        if not isinstance(output, Tensor):
            raise TypeError(
                f"the model must return a tensor, got {type(output).__name__}: give target as a function of the output"
            )
        if self.target is None:
            if output.ndim == 0 or output.numel() != len(output):
                raise ValueError(
                    f"target=None is for outputs of one value per sample, got shape {tuple(output.shape)}: give target "
                    "as class indices (N,), or as a function of the output"
                )
            return output.reshape(-1)
        if output.ndim != 2 or len(output) != len(self.target):
            raise ValueError(
                f"target of shape {tuple(self.target.shape)} needs outputs (N, classes) with N = {len(self.target)}, "
                f"got {tuple(output.shape)}"
            )
        target = self.target.to(output.device)
        if not self._in_range:  # one read of the device for each attribution
            if not bool(((target >= 0) & (target < output.shape[1])).all()):
                raise ValueError(
                    f"target must have classes from 0 to {output.shape[1] - 1}, got {int(target.min())} to "
                    f"{int(target.max())}"
                )
            self._in_range = True
        return output.gather(1, target[:, None]).squeeze(1)

    def forward(self, x: ModelInputs, replace: Replace | None = None) -> tuple[Tensor, list[Read]]:
        """The attributed values for ``x``, and what consumers have read."""
        output, reads = self.output(x, replace)
        return self.values(output), reads

    def gradients(self, x: ModelInputs, replace: Replace | None = None) -> tuple[list[Read], list[Tensor]]:
        """What consumers read, and the gradient of the sum of the values with respect to each."""
        values, reads = self.forward(x, replace)
        return reads, gradients_of(values, reads)


def _detached(tensor: Tensor) -> Tensor:
    """The tensor without its graph; one made in inference mode is copied, because autograd cannot save it."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def gradients_of(values: Tensor, reads: Sequence[Read]) -> list[Tensor]:
    """The gradient of the sum of ``values`` with respect to each read; 0 where it does not depend on it."""
    nodes = [read.value for read in reads]
    if not values.requires_grad:
        return [torch.zeros_like(node) for node in nodes]
    gradients = torch.autograd.grad(values.sum(), nodes, allow_unused=True)
    return [torch.zeros_like(n) if g is None else g for g, n in zip(gradients, nodes, strict=True)]
