"""Means over samples of squared, or absolute, gradients of each sample.

Gradients are those of single samples, by `torch.func`, whatever the size of the batches. For a linear layer that is
used once, with one row per sample, the sum over samples of squares is (delta^2)^T x^2, with x its input and delta the
gradient at its output, so that the gradients of the weights themselves are not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from gnt.regularization._samples import Batch

MOST_ELEMENTS = 1 << 25  # of gradients that are held at once


class Directions(Protocol):
    """What is differentiated: the rows of a matrix that multiplies the output."""

    square: bool

    def check_output(self, output: Tensor) -> None:
        """Refuse an output that does not fit."""

    def targets(self, y: Tensor | None, count: int, output: Tensor) -> Tensor:
        """One entry for each sample."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The output of one sample, (1, ...) -> directions (K, 1, ...)."""


class SampleGradients:
    """Sums over samples of |gradient|^2 or |gradient|, added up batch by batch.

    Args:
        net: the network.
        wanted: parameters of ``net`` by name.
        output: function of the inputs that calls the network; None for the network itself.
        directions: what is differentiated.
        chunk: the largest number of samples at once.

    Attributes:
        sums: the sums so far, by name.
        count: the number of samples so far.
    """

    def __init__(
        self,
        net: nn.Module,
        wanted: dict[str, Tensor],
        output: Callable[..., Any] | None,
        directions: Directions,
        chunk: int,
    ) -> None:
        self._caller = _Caller(net, output)
        self._weights = {f"net.{name}": each.detach() for name, each in wanted.items()}
        self._directions, self._chunk = directions, chunk
        self._linear: dict[str, nn.Linear] | None = None
        self._by_loop = self._compared = False
        self._example: Tensor = torch.empty(0, device="cpu")
        self.sums = {
            name: torch.zeros_like(each, dtype=torch.promote_types(each.dtype, torch.float32))
            for name, each in self._weights.items()
        }
        self.count = 0

    @torch.no_grad()
    def add(self, batch: Batch) -> None:
        """Add the samples of a batch."""
        if self._linear is None:
            self._examine(batch.part(0, 1))
        assert self._linear is not None
        targets = self._directions.targets(batch.y, batch.size, self._example)
        rows = len(self._directions(self._example, targets[0]))
        in_linear = {f"net.{name}.{key}" for name in self._linear for key in ("weight", "bias")}
        size = rows * sum(each.numel() for name, each in self._weights.items() if name not in in_linear)
        chunk = max(1, min(self._chunk, MOST_ELEMENTS // max(1, size)))
        for start in range(0, batch.size, chunk):
            part, target = batch.part(start, start + chunk), targets[start : start + chunk]
            if not self._by_loop:
                try:
                    if not self._compared and part.size > 1:
                        self._compare(part.part(0, 2), target[:2])
                    self._add_vectorized(part, target)
                except RuntimeError:  # an operation that vmap does not support
                    self._by_loop = True
            if self._by_loop:
                self._add_one_by_one(part, target)
            self.count += part.size

    def _compare(self, two: Batch, targets: Tensor) -> None:
        """Raise RuntimeError if two samples at once give other sums than one by one, as with the backward of
        ``nn.PReLU``, whose rule for nested `torch.func.vmap` mixes samples and directions.
        """
        before, found = self.sums, []
        for add in (self._add_one_by_one, self._add_vectorized):
            self.sums = {name: torch.zeros_like(each) for name, each in before.items()}
            try:
                add(two, targets)
                found.append(self.sums)
            finally:
                self.sums = before
        for right, got in zip(*(each.values() for each in found), strict=True):
            if bool((got - right).abs().max() > 1e-2 * right.abs().max()):
                raise RuntimeError("vectorized gradients differ")
        self._compared = True

    def means(self) -> dict[str, Tensor]:
        """The sums divided by the number of samples, by the names of ``wanted``."""
        return {name.removeprefix("net."): each / self.count for name, each in self.sums.items()}

    def _call(self, weights: dict[str, Tensor], args: Any, kwargs: Any) -> Tensor:
        result: Tensor = functional_call(self._caller, weights, args, kwargs)
        return result

    def _examine(self, sample: Batch) -> None:
        """Check the output for one sample, and find the linear layers for which the short form is right."""
        owners: dict[int, int] = {}
        modules = list(self._caller.net.named_modules())
        for _, module in modules:
            for parameter in module._parameters.values():
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
        candidates = {
            name: module
            for name, module in modules
            if type(module) is nn.Linear
            and f"net.{name}.weight" in self._weights
            and (module.bias is None or f"net.{name}.bias" in self._weights)
            and all(owners[id(each)] == 1 for each in module._parameters.values() if each is not None)
        }
        with torch.enable_grad(), _Probes(candidates, watch=True) as probes:
            weights = {name: each.clone().requires_grad_() for name, each in self._weights.items()}
            output = self._call(weights, sample.args, sample.kwargs)
            _check_output(output)
            self._directions.check_output(output)
            self._example = output.detach()
            if not output.requires_grad:
                raise ValueError("the output does not depend on any of the parameters")
            uses = _uses(output, weights)
            direction = torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype, device=output.device)
            seen = {name: calls[0] for name, calls in probes.calls.items() if len(calls) == 1}
            seen = {name: call for name, call in seen.items() if call.x.ndim == 2 and call.y.requires_grad}
            # a weight that is used elsewhere, too, has another gradient, if not for this sample then for others
            seen = {
                name: call
                for name, call in seen.items()
                if uses[f"net.{name}.weight"] == 1 and uses.get(f"net.{name}.bias", 1) == 1
            }
            own = [weights[f"net.{name}.weight"] for name in seen]
            wanted = [*own, *(call.y for call in seen.values())]
            found: Any = (
                torch.autograd.grad(output, wanted, direction.view_as(output), allow_unused=True) if wanted else ()
            )
        self._linear = {}
        for i, (name, call) in enumerate(seen.items()):
            weight, delta = found[i], found[len(own) + i]
            if weight is None or delta is None or len(call.x) != 1:
                continue
            error = (weight - delta.t() @ call.x).abs().max()
            if error <= 1e-2 * weight.abs().max():
                self._linear[name] = candidates[name]

    def _add_vectorized(self, batch: Batch, targets: Tensor) -> None:
        assert self._linear is not None
        inside = {f"net.{name}.{key}" for name in self._linear for key in ("weight", "bias")}
        whole = {name: each for name, each in self._weights.items() if name not in inside}
        rest = {name: each for name, each in self._weights.items() if name in inside}
        example = self._example
        zeros = {
            name: example.new_zeros(1, each.out_features, dtype=each.weight.dtype)
            for name, each in self._linear.items()
        }

        def one(args: Any, kwargs: Any, target: Tensor) -> Any:
            args = tuple(each.unsqueeze(0) for each in args)
            kwargs = {name: each.unsqueeze(0) for name, each in kwargs.items()}

            def run(weights: dict[str, Tensor], added: dict[str, Tensor]) -> Any:
                probes.added, probes.inputs = added, {}
                return self._call({**weights, **rest}, args, kwargs), probes.inputs

            result: Any = vjp(run, whole, zeros, has_aux=True)  # type: ignore[call-overload,unused-ignore]
            output, pull, inputs = result
            gradients, deltas = vmap(pull)(self._directions(output, target))
            return gradients, deltas, inputs

        with _Probes(self._linear) as probes:
            gradients, deltas, inputs = vmap(one)(batch.args, batch.kwargs, targets)
        new: dict[str, Tensor] = {}
        for name, each in gradients.items():
            new[name] = self._power(each, self.sums[name].dtype).sum((0, 1))
        for name, layer in self._linear.items():
            dtype = self.sums[f"net.{name}.weight"].dtype
            delta = self._power(deltas[name], dtype).sum(1)[:, 0]
            new[f"net.{name}.weight"] = delta.t() @ self._power(inputs[name], dtype)[:, 0]
            if layer.bias is not None:
                new[f"net.{name}.bias"] = delta.sum(0)
        for name, each in new.items():
            self.sums[name] += each

    def _add_one_by_one(self, batch: Batch, targets: Tensor) -> None:
        for i in range(batch.size):
            sample = batch.part(i, i + 1)
            with torch.enable_grad():
                weights = {name: each.clone().requires_grad_() for name, each in self._weights.items()}
                output = self._call(weights, sample.args, sample.kwargs)
            for direction in self._directions(output.detach(), targets[i]):
                gradients = torch.autograd.grad(
                    output, list(weights.values()), direction, retain_graph=True, allow_unused=True
                )
                for name, each in zip(weights, gradients, strict=True):
                    if each is not None:
                        self.sums[name] += self._power(each, self.sums[name].dtype)

    def _power(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        values = values.to(dtype)
        return values.square() if self._directions.square else values.abs()


def _uses(output: Tensor, weights: dict[str, Tensor]) -> dict[str, int]:
    """How many operations of an output's graph read each of some leaves."""
    counts = {id(each): 0 for each in weights.values()}
    waiting: list[Any] = [] if output.grad_fn is None else [output.grad_fn]
    seen = set(waiting)
    while waiting:
        for node, _ in waiting.pop().next_functions:
            leaf = getattr(node, "variable", None)  # of the node that accumulates a leaf's gradient
            if leaf is not None:
                counts[id(leaf)] = counts.get(id(leaf), 0) + 1
            elif node is not None and node not in seen:
                seen.add(node)
                waiting.append(node)
    return {name: counts[id(each)] for name, each in weights.items()}


def _check_output(output: Any) -> None:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        got = str(output.dtype) if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(
            f"the output must be a floating point tensor, got {got}: pass output=, a function of the inputs"
        )
    if not output.ndim or output.shape[0] != 1:
        raise ValueError(f"the output must have one row for each sample, got {tuple(output.shape)} for one sample")


class _Caller(nn.Module):
    """The network as a submodule, called by itself or through a function of the user."""

    def __init__(self, net: nn.Module, output: Callable[..., Any] | None) -> None:
        super().__init__()
        self.net = net
        self._output = (net if output is None else output,)  # in a tuple, so that it is no submodule
        self.training = net.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._output[0](*args, **kwargs)


class _Call:
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y


class _Probes:
    """Hooks that keep the inputs of layers and add tensors to their outputs, inside of its context."""

    def __init__(self, layers: dict[str, nn.Linear], watch: bool = False) -> None:
        self._layers, self._watch = layers, watch
        self.calls: dict[str, list[_Call]] = {}
        self.added: dict[str, Tensor] = {}
        self.inputs: dict[str, Tensor] = {}

    def __enter__(self) -> _Probes:
        self._handles = [
            layer.register_forward_hook(self._hook(name), prepend=True) for name, layer in self._layers.items()
        ]
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, Sequence[Any], Tensor], Tensor | None]:
        def hook(module: nn.Module, args: Sequence[Any], result: Tensor) -> Tensor | None:
            if self._watch:
                if len(args) == 1:
                    result = result.clone()  # an in-place operation may follow
                    self.calls.setdefault(name, []).append(_Call(args[0], result))
                    return result.view_as(result)
                return None
            self.inputs[name] = args[0]
            return result + self.added[name]

        return hook
