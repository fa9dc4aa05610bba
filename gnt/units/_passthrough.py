"""The layers between a producer and its consumer in a list: do they keep the units separate?

Known modules are recognised by type. A plain function, or a module without parameters, that is not known is probed with
random numbers in training and evaluation mode: it must act on each unit alone, or flatten. Everything else is refused,
because a wrong guess would silently corrupt networks.
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
from gnt.units._errors import WalkError
from gnt.units._layer_types import CONV_LAYERS, couples_units, has_torch_forward
from gnt.units._slot import Slot

_ELEMENTWISE = (
    nn.Identity, nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
)  # fmt: skip
_CHANNELWISE = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool1d, nn.LPPool2d,
    nn.FractionalMaxPool2d, nn.FractionalMaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Upsample, nn.ConstantPad1d, nn.ConstantPad2d,
    nn.ConstantPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d,
    nn.ReplicationPad2d, nn.ReplicationPad3d,
)  # fmt: skip
_ALLOWED_AT_END = (nn.Identity, nn.Dropout, nn.Flatten, nn.Unflatten)


class Passthrough:
    """The layers that follow one producer in a list, up to its consumer."""

    def __init__(self, producer: Slot) -> None:
        self.producer = producer
        self.activation: Activation | None = None
        self.scales: list[Slot] = []
        self.flattened = False
        self._normalized = False  # a norm follows the activation
        self._between: list[tuple[str, Any]] = []
        self._inner_norms: list[tuple[str, nn.Module, int]] = []

    @property
    def _spatial(self) -> int:
        """Number of dimensions after the units' dimension."""
        conv = isinstance(self.producer.module, CONV_LAYERS) and not self.flattened
        return self.producer.weight.ndim - 2 if conv else 0

    @property
    def couplings(self) -> tuple[str, ...]:
        """Norms whose statistics cover several units."""
        return tuple(f"{s.name} {type(s.module).__name__}" for s in self.scales if couples_units(s.module))

    def append(self, name: str, layer: nn.Module | Callable[..., Any]) -> None:
        """Add the next layer."""
        self._between.append((name, layer))

    def check_layers(self) -> None:
        """Follow the units through all layers; raise WalkError if a layer could mix them."""
        for name, layer in self._between:
            self._check_layer(name, layer)

    def _check_layer(self, name: str, layer: nn.Module | Callable[..., Any]) -> None:
        if hasattr(layer, "has_own_engine"):
            raise self._refusal(name, layer, "it has its own engine: use CBPLinear/CBPConv or GnT, not both")
        if isinstance(layer, nn.Module) and not has_torch_forward(layer):
            self._probe(name, layer)
            return
        activation = identify_activation(layer)
        if activation is not None:
            if self.activation is not None and self.activation != activation and not self._normalized:
                activation = f"{activation[0]} of {self.activation[0]}", None  # no known activation, and no known gain
                self.activation = None
            self.activation = self.activation or activation
            if isinstance(layer, nn.PReLU) and layer.num_parameters > 1:
                self._scale(name, layer, layer.num_parameters)
        elif isinstance(layer, (_NormBase, nn.GroupNorm)):
            self._normalized = self.activation is not None
            size = layer.num_channels if isinstance(layer, nn.GroupNorm) else layer.num_features
            self._check_lazy(name, layer)
            self._scale(name, layer, size)
        elif isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
            self._normalized = self.activation is not None
            self._layer_norm(name, layer)
        elif isinstance(layer, nn.Flatten):
            if layer.start_dim != 1 or layer.end_dim != -1:
                raise self._refusal(name, layer, "only Flatten(1, -1) keeps the positions of a channel together")
            self.flattened = True
        elif isinstance(layer, _CHANNELWISE):
            if not self._spatial:
                raise self._refusal(name, layer, "on flat features it would mix units")
            dims = re.search(r"(\d)d$", type(layer).__name__)
            if dims and int(dims[1]) != self._spatial:
                raise self._refusal(name, layer, f"the features have {self._spatial} dimensions after the units")
        elif not isinstance(layer, _ELEMENTWISE):
            self._probe(name, layer)

    def resolve_inner_norms(self, num_inputs: int) -> None:
        """For a linear consumer with ``num_inputs`` inputs, treat norms of that size as acting on flattened channels.

        The model then applies a `view` before the norm that the list does not show.
        """
        if self._spatial:
            for name, layer, size in self._inner_norms:
                if size == num_inputs:
                    self._scale(name, layer, size)

    def check_end_of_list(self) -> None:
        """Refuse a list in which more than dropout and reshaping follows the last weight layer."""
        for name, layer in self._between:
            if not isinstance(layer, _ALLOWED_AT_END):
                kind = getattr(layer, "__name__", type(layer).__name__)
                raise WalkError(
                    f"the list ends in {kind} ({name!r}), so the units of {self.producer.name!r} have no consumer: end "
                    "the list with the weight layer that reads them or, if they are the network's outputs, remove "
                    f"{kind} from the list: GnT(net[:-1]), or layers=net[:-1] for learners, CBPAdam and its kin"
                )

    def _scale(self, name: str, layer: nn.Module, size: int, dim: int = 0) -> None:
        """Add the slot of a module with one entry per unit, or per position of a unit's block."""
        for key in ("weight", "bias"):
            if key not in layer._parameters and isinstance(getattr(layer, key, None), Tensor):
                raise self._refusal(name, layer, f"its {key} is not a plain parameter (it is parametrized)")
        units = self.producer.num_units
        may_be_flat = isinstance(self.producer.module, CONV_LAYERS) and not isinstance(layer, nn.GroupNorm)
        if size != units and not (may_be_flat and size % units == 0):
            raise self._refusal(name, layer, f"its size {size} does not fit {units} units")
        self.flattened = self.flattened or size > units
        self.scales.append(Slot(name, layer, units, dim=dim, block=size // units))

    def _layer_norm(self, name: str, layer: nn.LayerNorm | nn.RMSNorm) -> None:
        shape = tuple(layer.normalized_shape)
        units, spatial = self.producer.num_units, self._spatial
        if spatial and len(shape) == spatial + 1 and shape[0] == units:
            self.scales.append(Slot(name, layer, units))
        elif spatial and len(shape) <= spatial:
            # parameters within a channel belong to no unit, unless the model applies a `view` before this norm
            self._inner_norms.append((name, layer, shape[-1] if len(shape) == 1 else 0))
        else:
            self._scale(name, layer, shape[-1], dim=len(shape) - 1)

    def _probe(self, name: str, layer: nn.Module | Callable[..., Any]) -> None:
        """Run an unknown layer on random numbers to see whether it acts on each unit alone, or flattens."""
        if isinstance(layer, nn.Module):
            if any(True for _ in (*layer.parameters(), *layer.buffers())):
                raise self._refusal(
                    name, layer, "it has parameters of its own, and gnt does not know which of them belong to a unit"
                )
            layer = copy.deepcopy(layer)
        units, spatial = self.producer.num_units, self._spatial
        shape = (2, units, *[4] * spatial)
        try:
            effects = {_effect(layer, shape, training, scale) for training in (True, False) for scale in (1.0, 1e4)}
        except Exception as error:
            raise self._refusal(name, layer, f"running it on a tensor of shape {shape} failed: {error}") from error
        if effects == {"flattens"} and spatial:
            self.flattened = True
            return
        if effects == {"resizes"}:
            raise self._refusal(
                name,
                layer,
                "it makes more or fewer features than there are units; gnt.trace(model, inputs) can assign them",
            )
        if effects != {"separate"}:
            raise self._refusal(name, layer, "it does not act on each unit alone")
        self.activation = self.activation or (getattr(layer, "__name__", type(layer).__name__), None)

    def _check_lazy(self, name: str, layer: nn.Module) -> None:
        if isinstance(layer, nn.modules.lazy.LazyModuleMixin) and layer.has_uninitialized_params():
            raise self._refusal(
                name, layer, "it is lazy and has no parameters yet: run one forward before building the engine"
            )

    def _refusal(self, name: str, layer: Any, why: str) -> WalkError:
        kind = getattr(layer, "__name__", type(layer).__name__)
        return WalkError(f"{kind} ({name!r}) after {self.producer.name!r} cannot be walked: {why}")


def _effect(layer: Callable[..., Any], shape: tuple[int, ...], training: bool, scale: float) -> str:
    """Effect of ``layer`` on the units of a random input: "separate" if it acts on each alone, else "flattens",
    "resizes" or "mixes".
    """
    if isinstance(layer, nn.Module):
        layer.train(training)
    x = scale * torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu")
    with torch.no_grad():
        y = _call(layer, x)
        if _equal(y, x.flatten(1)) and x.ndim > 2:
            return "flattens"
        if isinstance(y, Tensor) and y.ndim == x.ndim and y.shape[1] != x.shape[1]:
            return "resizes"
        separate = isinstance(y, Tensor) and y.shape[:2] == x.shape[:2] and y.ndim == x.ndim
        for mask in _separating_masks(x.shape[1]) if separate else ():
            changed = x.clone()
            changed[:, mask] += scale
            separate = separate and torch.equal(_call(layer, changed)[:, ~mask], y[:, ~mask])
    return "separate" if separate else "mixes"


def _call(layer: Callable[..., Any], x: Tensor) -> Any:
    """Call ``layer`` on a copy of ``x`` with a fixed seed, without advancing the user's random generator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would also seed the accelerators
        return layer(x.clone())


def _separating_masks(num_units: int) -> Iterator[Tensor]:
    """Masks of units such that for any ordered pair some mask contains the first and not the second.

    There are two masks per bit of the unit's number.
    """
    number = torch.arange(num_units, device="cpu")
    for bit in range((num_units - 1).bit_length()):
        yield (number >> bit) & 1 == 0
        yield (number >> bit) & 1 == 1


def _equal(y: Any, x: Tensor) -> bool:
    return isinstance(y, Tensor) and y.shape == x.shape and torch.equal(y, x)
