"""CBPLayer: the base of `CBPLinear` and `CBPConv`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnt._utils.known_attributes import known_attributes
from gnt._utils.other_names import explains_unknown_settings
from gnt.importance import (
    BackwardWatch,
    FeatureBatch,
    OwnWeights,
    TapFeatures,
    check_feature,
    in_backward,
    record,
    record_compiled,
)
from gnt.initialization import Init
from gnt.names import Accumulate, ActivationName, BiasInit, Utility
from gnt.replacement._config import ENGINE_SETTINGS, EngineSettings
from gnt.replacement._layer_steps import look_up_again, numbers, register
from gnt.replacement._layer_use import LayerUse, unused_message
from gnt.replacement._protect_setting import Protect
from gnt.replacement._soft_settings import SoftReplacement
from gnt.replacement.engine import GnT
from gnt.units import CONV_LAYERS, UnitGroup, walk


@known_attributes(elsewhere={name: f"engine.{name}" for name in ENGINE_SETTINGS}, others_allowed=True)
class CBPLayer(nn.Module):
    """Base of the two layers: the identity, with an engine for the group of units between two layers."""

    has_own_engine = True
    _producers: tuple[type[nn.Module], ...] = ()
    _consumers: tuple[type[nn.Module], ...] = ()

    @explains_unknown_settings
    def __init__(
        self,
        in_layer: nn.Module,
        out_layer: nn.Module,
        *,
        norms: nn.Module | Sequence[nn.Module] = (),
        activation: ActivationName = "relu",
        replacement_rate: float = EngineSettings.replacement_rate,
        maturity_threshold: int = EngineSettings.maturity_threshold,
        decay_rate: float = EngineSettings.decay_rate,
        utility: Utility = EngineSettings.utility,
        init: Init = EngineSettings.init,
        accumulate: Accumulate = EngineSettings.accumulate,
        bias_transfer: bool = EngineSettings.bias_transfer,
        generator: torch.Generator | None = None,
        process_group: Any = None,
        kernels: bool | None = EngineSettings.kernels,
        bias_init: BiasInit = EngineSettings.bias_init,
        protect: Protect = None,
        grad_scaler: torch.amp.GradScaler | None = None,
        measure_every: int = EngineSettings.measure_every,
        soft: SoftReplacement | bool | None = EngineSettings.soft,
    ) -> None:
        super().__init__()
        self._activation = activation
        if not isinstance(norms, (nn.Module, list, tuple)):
            raise TypeError(f"norms must be a norm or a list of norms, got {norms!r:.60}")
        self._norms = (norms,) if isinstance(norms, nn.Module) else tuple(norms)
        # the engine is not a module: the two layers are submodules of the network, not of this layer
        self.engine = GnT(
            [self._find_group(in_layer, self._norms, out_layer)],
            replacement_rate=replacement_rate,
            maturity_threshold=maturity_threshold,
            decay_rate=decay_rate,
            utility=utility,
            init=init,
            accumulate=accumulate,
            bias_transfer=bias_transfer,
            generator=generator,
            record=False,
            process_group=process_group,
            kernels=kernels,
            bias_init=bias_init,
            protect=protect,
            grad_scaler=grad_scaler,
            measure_every=measure_every,
            soft=soft,
        )
        self.engine.feature_buffer.require_backward()
        self._own_weights: OwnWeights | None = None
        self.number = self.order = next(numbers)  # number of its construction, and of its latest forward
        self._backward_watch: BackwardWatch | None = None
        self._use = LayerUse(self.group)
        register(self)
        self.watch_backward()

    def _find_group(self, in_layer: nn.Module, norms: Sequence[nn.Module], out_layer: nn.Module) -> UnitGroup:
        """The units between two layers."""
        own = type(self).__name__
        for role, layer, allowed in (
            ("in_layer", in_layer, self._producers),
            ("out_layer", out_layer, self._consumers),
        ):
            if not isinstance(layer, allowed):
                kinds = ", ".join(kind.__name__ for kind in allowed)
                raise TypeError(f"{role} of {own} must be one of {kinds}, got {type(layer).__name__}")
        groups = walk([in_layer, *norms, out_layer], activation=self._activation)
        if len(groups) != 1:
            raise ValueError(f"norms of {own} must be norms, got {[type(norm).__name__ for norm in norms]}")
        groups[0].name = f"{own} of {type(in_layer).__name__} with {groups[0].num_units} units"
        return groups[0]

    def rebind(
        self,
        in_layer: nn.Module | None = None,
        out_layer: nn.Module | None = None,
        *,
        norms: nn.Module | Sequence[nn.Module] | None = None,
    ) -> CBPLayer:
        """Go on with layers that were replaced in the network on purpose, such as a new head; returns this layer.

        All units keep their ages and averages if ``in_layer`` is the same module, with the same number of units; if it
        was replaced, those whose incoming weights the new one has taken over. Others start at age 0. Recorded features
        are dropped. The optimizer of the next step must hold the parameters of the new layers.

        Args:
            in_layer, out_layer, norms: the layers as they are now; None: those before.

        Raises:
            TypeError, ValueError: as at construction, or a follower of the network before (`GnT.unfollow`). Nothing is
                changed.

        >>> import torch, gnt
        >>> from torch import nn
        >>> fc1, fc2 = nn.Linear(4, 16), nn.Linear(16, 2)
        >>> net = nn.Sequential(fc1, nn.ReLU(), gnt.CBPLinear(fc1, fc2), fc2)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        >>> def train(steps):
        ...     for _ in range(steps):
        ...         optimizer.zero_grad()
        ...         net(torch.randn(8, 4)).square().mean().backward()
        ...         optimizer.step()
        >>> train(3)
        >>> net[3] = nn.Linear(16, 5)  # a head for more classes
        >>> optimizer.add_param_group({"params": net[3].parameters()})
        >>> net[2].rebind(out_layer=net[3]).group.state.age.unique().tolist()
        [3]
        >>> train(2)
        >>> net[2].group.state.age.unique().tolist()
        [5]
        """
        own = self.group
        between = self._norms if norms is None else (norms,) if isinstance(norms, nn.Module) else tuple(norms)
        group = self._find_group(
            own.producer if in_layer is None else in_layer,
            between,
            own.consumers[0] if out_layer is None else out_layer,
        )
        # the optimizer so far need not hold the new layers: that of the next step is looked at then
        before, self.engine.optimizer_state = self.engine.optimizer_state, None
        try:
            self.engine.rebind([group])
        except BaseException:
            self.engine.optimizer_state = before
            raise
        self._norms, self._own_weights = between, None
        self._use.remove()
        self._use = LayerUse(group)
        if self._backward_watch is not None:
            self._backward_watch.remove()
            self._backward_watch = None
        self.watch_backward()
        look_up_again()
        return self

    @property
    def features(self) -> TapFeatures:
        """The features recorded since the last step."""
        return self.engine.feature_buffer.taps[0]

    @property
    def group(self) -> UnitGroup:
        """The units between the two layers."""
        return self.engine.groups[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``; in training mode with grad enabled, record it until the optimizer's step."""
        if torch.compiler.is_compiling():
            if self.training and torch.is_grad_enabled():
                record_compiled((self.features,), self._as_consumer_reads(x.detach()))
                if x.requires_grad:
                    self._use.in_compiled_graph = True
            return x
        # layers act in the order of the network's forward, not in that of a checkpoint's recomputation
        if self.training and not self.features.waiting and not in_backward():
            self.order = next(numbers)
        if self.training and torch.is_grad_enabled():
            self.engine.follow_network()
            feature = self._as_consumer_reads(x.detach())
            check_feature(feature, self.group, self.group.outgoing[0])
            if self._own_weights is None:  # not at once: in a copy the two layers are not complete yet
                self._own_weights = OwnWeights(self.group.consumers[0], self.group.producer)
                self._use.watch()
            self._use.note_forward()
            gradients = self.features.gradients
            view = record((self.features,), feature, self._own_weights, node=x, gradients=gradients)
            return x if view is None else view
        return x

    def takes_part(self) -> bool:
        """True if the layer has features that a backward has reached, or for which this cannot be seen."""
        return self.features.waiting and self.engine.feature_buffer.trained

    def take_features(self) -> FeatureBatch:
        """Return the checked features recorded since the last step, and forget them."""
        features = self.engine.take_features()
        self._use.forget()
        return features

    def discard(self) -> None:
        """Drop the recorded features of forwards that no step will follow."""
        self.engine.discard()
        self._use.forget()

    def watch_backward(self) -> None:
        """Watch gradients, to find out that features were abandoned, and that a layer was replaced in the network."""
        param = self.group.incoming[0].weight
        if param.requires_grad and (self._backward_watch is None or not self._backward_watch.watches(param)):
            if self._backward_watch is not None:
                self._backward_watch.remove()
            self._backward_watch = BackwardWatch(self.engine.feature_buffer, param)
        self._use.watch()

    def check_use(self, *, optimizer_has_stepped: bool = False) -> None:
        """Check that the network still runs ``in_layer``, the norms and ``out_layer``.

        Args:
            optimizer_has_stepped: for the error message.

        Raises:
            RuntimeError: a backward has reached features of this layer and computed the gradients of some of them only.
        """
        unused = self._use.unused()
        if unused and (self.features.trained or self._use.in_compiled_graph):
            name = self.group.name
            raise RuntimeError(unused_message(name, unused, optimizer_has_stepped=optimizer_has_stepped))

    def _as_consumer_reads(self, feature: Tensor) -> Tensor:
        """The feature in the shape that the consumer reads: flat, if a flatten follows this layer."""
        flat = isinstance(self.group.producer, CONV_LAYERS) and not isinstance(self.group.consumers[0], CONV_LAYERS)
        return feature.flatten(1) if flat and feature.ndim > 2 else feature

    def get_extra_state(self) -> dict[str, Any]:
        """The engine's state, saved in the network's state_dict."""
        return self.engine.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Load the engine's state from the network's state_dict."""
        self.engine.load_state_dict(state)

    def reset_parameters(self) -> None:
        """Give the layer the engine of a new one: all units at age 0, without utilities and recorded features.

        There are no parameters; the name is that of torch's layers.
        """
        self.set_extra_state(self.engine.initial_state_dict())

    def extra_repr(self) -> str:
        """The engine's settings."""
        return repr(self.engine)

    def __getstate__(self) -> dict[str, Any]:
        # a copied network is not stepped by the original's optimizer, which must not be copied with it
        engine = copy.copy(self.engine)
        engine.optimizer = None
        return {**self.__dict__, "_backward_watch": None, "_own_weights": None, "engine": engine}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        register(self)
