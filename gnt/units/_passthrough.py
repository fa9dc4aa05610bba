"""What stands between a producer and its consumer: does it keep the units apart, and what of it belongs to a unit?

Known modules are told by a table. A module without parameters, or a plain function, that is not in the table is probed
with numbers, in training and in evaluation: it must act on each unit alone, or flatten. Anything else is refused: a
guess here would corrupt networks silently.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from gnt.units._activations import Activation, identify_activation
from gnt.units._group import CONV_LAYERS, Slot


class WalkError(ValueError):
    """A list of layers that cannot be turned into unit groups soundly; the message says which layer and why."""


_UNIT_BY_UNIT = (
    nn.Identity, nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
)  # fmt: skip
_CHANNEL_BY_CHANNEL = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool1d, nn.LPPool2d,
    nn.FractionalMaxPool2d, nn.FractionalMaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Upsample, nn.ConstantPad1d, nn.ConstantPad2d,
    nn.ConstantPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d,
    nn.ReplicationPad2d, nn.ReplicationPad3d,
)  # fmt: skip
_TAIL = (nn.Identity, nn.Dropout, nn.Flatten, nn.Unflatten)


class Passage:
    """The way of one producer's units towards their consumer, layer by layer."""

    def __init__(self, producer: Slot) -> None:
        self.producer = producer
        self.activation: Activation | None = None
        self.scales: list[Slot] = []
        self.flattened = False
        self._between: list[tuple[str, Any]] = []
        self._inner_norms: list[tuple[str, nn.Module, int]] = []

    @property
    def _spatial(self) -> int:
        """How many dimensions follow the units' dimension."""
        conv = isinstance(self.producer.module, CONV_LAYERS) and not self.flattened
        return self.producer.weight.ndim - 2 if conv else 0

    def append(self, name: str, layer: nn.Module | Callable[..., Any]) -> None:
        """Take in one more layer."""
        self._between.append((name, layer))

    def travel(self) -> None:
        """A consumer was found: follow the units to it; WalkError if they could mix on the way."""
        for name, layer in self._between:
            self._pass(name, layer)

    def _pass(self, name: str, layer: nn.Module | Callable[..., Any]) -> None:
        if hasattr(layer, "looks_after_units"):
            raise self._refusal(name, layer, "it has an engine of its own; use layers or GnT, not both")
        if isinstance(layer, nn.Module) and not has_torch_forward(layer):
            self._probe(name, layer)
            return
        activation = identify_activation(layer)
        if activation is not None:
            self.activation = self.activation or activation
            if isinstance(layer, nn.PReLU) and layer.num_parameters > 1:
                self._scale(name, layer, layer.num_parameters)
        elif isinstance(layer, (_NormBase, nn.GroupNorm)):
            size = layer.num_channels if isinstance(layer, nn.GroupNorm) else layer.num_features
            self._check_lazy(name, layer)
            self._scale(name, layer, size)
        elif isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
            self._layer_norm(name, layer)
        elif isinstance(layer, nn.Flatten):
            if layer.start_dim != 1 or layer.end_dim != -1:
                raise self._refusal(name, layer, "only Flatten(1, -1) keeps the channels' blocks in order")
            self.flattened = True
        elif isinstance(layer, _CHANNEL_BY_CHANNEL):
            if not self._spatial:
                raise self._refusal(name, layer, "on flat features it would mix units")
            dims = re.search(r"(\d)d$", type(layer).__name__)
            if dims and int(dims[1]) != self._spatial:
                raise self._refusal(name, layer, f"the features have {self._spatial} dimensions beside the units")
        elif not isinstance(layer, _UNIT_BY_UNIT):
            self._probe(name, layer)

    def settle(self, reads: int) -> None:
        """The consumer is linear and reads ``reads`` inputs: norms of just that size stood behind an unlisted
        `view`.
        """
        if self._spatial:
            for name, layer, size in self._inner_norms:
                if size == reads:
                    self._scale(name, layer, size)

    def check_end(self) -> None:
        """Refuse a list that goes on after its last weight layer with more than reshaping."""
        for name, layer in self._between:
            if not isinstance(layer, _TAIL):
                kind = getattr(layer, "__name__", type(layer).__name__)
                raise WalkError(
                    f"the list ends in {kind} ({name!r}), so the units of {self.producer.name!r} have no consumer: end "
                    "the list with the weight layer that reads them or, if they are the network's outputs, leave "
                    f"{kind} out of the list: GnT(net[:-1]), ContinualBackprop(net, layers=net[:-1])"
                )

    def _scale(self, name: str, layer: nn.Module, size: int, dim: int = 0) -> None:
        """A module with one entry for each unit (or for each position of its block)."""
        for key in ("weight", "bias"):
            if key not in layer._parameters and isinstance(getattr(layer, key, None), Tensor):
                raise self._refusal(name, layer, f"its {key} is not a plain parameter (it is parametrized)")
        units = self.producer.num_units
        flat = isinstance(self.producer.module, CONV_LAYERS) and not isinstance(layer, nn.GroupNorm)
        if size != units and not (flat and size % units == 0):
            raise self._refusal(name, layer, f"its size {size} does not fit {units} units")
        self.flattened = self.flattened or size > units
        self.scales.append(Slot(name, layer, units, dim=dim, block=size // units))

    def _layer_norm(self, name: str, layer: nn.LayerNorm | nn.RMSNorm) -> None:
        shape = tuple(layer.normalized_shape)
        units, spatial = self.producer.num_units, self._spatial
        if spatial and len(shape) == spatial + 1 and shape[0] == units:
            self.scales.append(Slot(name, layer, units))
        elif spatial and len(shape) <= spatial:
            # within a channel its affine parameters belong to no unit, but a `view` may have come before it
            self._inner_norms.append((name, layer, shape[-1] if len(shape) == 1 else 0))
        else:
            self._scale(name, layer, shape[-1], dim=len(shape) - 1)

    def _probe(self, name: str, layer: nn.Module | Callable[..., Any]) -> None:
        """Find out by numbers whether an unknown layer acts on each unit alone, or flattens."""
        if isinstance(layer, nn.Module):
            if any(True for _ in (*layer.parameters(), *layer.buffers())):
                raise self._refusal(
                    name, layer, "it has parameters of its own, and gnt does not know which belong to a unit"
                )
            layer = copy.deepcopy(layer)
        units, spatial = self.producer.num_units, self._spatial
        shape = (2, units, *[4] * spatial)
        try:
            verdicts = {_verdict(layer, shape, training, scale) for training in (True, False) for scale in (1.0, 1e4)}
        except Exception as error:
            raise self._refusal(name, layer, f"trying it on a tensor of shape {shape} failed: {error}") from error
        if verdicts == {"flattens"} and spatial:
            self.flattened = True
            return
        if verdicts == {"resizes"}:
            raise self._refusal(
                name,
                layer,
                "it makes more or fewer features than there are units; gnt.trace(model, inputs) tells whose",
            )
        if verdicts != {"keeps apart"}:
            raise self._refusal(name, layer, "it does not act on each unit alone")
        self.activation = self.activation or (getattr(layer, "__name__", type(layer).__name__), None)

    def _check_lazy(self, name: str, layer: nn.Module) -> None:
        if isinstance(layer, nn.modules.lazy.LazyModuleMixin) and layer.has_uninitialized_params():
            raise self._refusal(name, layer, "it is lazy and has no parameters yet; run one forward before")

    def _refusal(self, name: str, layer: Any, why: str) -> WalkError:
        kind = getattr(layer, "__name__", type(layer).__name__)
        return WalkError(f"{kind} ({name!r}) after {self.producer.name!r} cannot be walked: {why}")


def has_torch_forward(module: nn.Module) -> bool:
    """Whether a module, or the class it is derived from, is torch's, and so is its forward: what is known holds."""
    return str(type(module).forward.__module__).startswith("torch.")


def _verdict(layer: Callable[..., Any], shape: tuple[int, ...], training: bool, scale: float) -> str:
    """What ``layer`` does to numbers of that size: "keeps apart" units, "flattens", "resizes" or "mixes" them."""
    if isinstance(layer, nn.Module):
        layer.train(training)
    x = scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = _try(layer, x)
        if _same(y, x.flatten(1)) and x.ndim > 2:
            return "flattens"
        if isinstance(y, Tensor) and y.ndim == x.ndim and y.shape[1] != x.shape[1]:
            return "resizes"
        apart = isinstance(y, Tensor) and y.shape[:2] == x.shape[:2] and y.ndim == x.ndim
        for some in _sides(x.shape[1]) if apart else ():
            changed = x.clone()
            changed[:, some] += scale
            apart = apart and torch.equal(_try(layer, changed)[:, ~some], y[:, ~some])
    return "keeps apart" if apart else "mixes"


def _try(layer: Callable[..., Any], x: Tensor) -> Any:
    """``layer`` on a copy of ``x``, with the same random draws each time and none of the user's."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed the accelerators' too
        return layer(x.clone())


def _sides(units: int) -> Iterator[Tensor]:
    """Masks of units such that any two units are told apart, either way round, by some mask: one bit each."""
    number = torch.arange(units)
    for bit in range((units - 1).bit_length()):
        yield (number >> bit) & 1 == 0
        yield (number >> bit) & 1 == 1


def _same(y: Any, x: Tensor) -> bool:
    return isinstance(y, Tensor) and y.shape == x.shape and torch.equal(y, x)
