"""CBPSGD, CBPAdam, CBPAdamW: continual backpropagation by swapping the optimizer's line.

Each is the optimizer it is named after, made from the network instead of its parameters, with an engine attached that
acts after every step. Schedulers, gradient scalers, clipping and trainers take them as they are; ``state_dict`` holds
the engine.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from gnt._utils.validation import check_known_settings
from gnt.optim import _cbp_arguments as cbp_arguments
from gnt.optim._adam.dispatch import Places
from gnt.optim._sgd_kernel import CompiledSGD
from gnt.optim._step_wrapper import lean, unwrapped
from gnt.optim.adam_gnt import AdamGnT
from gnt.replacement import ENGINE_SETTINGS, GnT
from gnt.units import WalkError


class _Continual(Optimizer):
    """What the three have in common: settings told apart, an engine attached, copies with engines of their own.

    Attributes:
        gnt: the engine; ``gnt.replaced`` is what the latest step replaced, ``gnt.report()`` tells how it gets on.
    """

    gnt: GnT
    _base: ClassVar[type[Optimizer]]
    _preset: ClassVar[dict[str, Any]] = {}
    _fixed: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        net: nn.Module | ParamsT,
        lr: float = 1e-3,
        *,
        layers: Any = None,
        params: ParamsT | None = None,
        example_inputs: Any = None,
        include: cbp_arguments.Patterns = None,
        exclude: cbp_arguments.Patterns = None,
        **settings: Any,
    ) -> None:
        kind = type(self).__name__
        held = cbp_arguments.parameters(net, params, layers, kind)
        allowed = [n for n in inspect.signature(self._base).parameters if n not in ("params", "lr", *self._fixed)]
        check_known_settings(settings, kind, allowed, ENGINE_SETTINGS)
        engine = {name: settings.pop(name) for name in ENGINE_SETTINGS if name in settings}
        if "kernels" in engine and "kernels" in inspect.signature(self._base).parameters:
            settings["kernels"] = engine["kernels"]  # one flag for both
        options: dict[str, Any] = {"lr": lr, **self._preset, **settings, **self._fixed}
        choice = {"include": include, "exclude": exclude}
        if example_inputs is not None:
            choice["activation"] = engine.pop("activation", None)
        units = cbp_arguments.units(net, layers, example_inputs, choice)
        super().__init__(held, **options)
        try:
            self.gnt = GnT(units, self, **engine).attach()
        except WalkError as error:
            if layers is not None or example_inputs is not None:
                raise
            raise WalkError(f"{error}. {cbp_arguments.WAYS_OUT}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "gnt": self.gnt}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "gnt" in state:  # a copy, not load_state_dict
            self.gnt.reattach()


class CBPSGD(_Continual, torch.optim.SGD):
    """``torch.optim.SGD`` with continual backpropagation: swap one line, nothing else changes.

    Args:
        net: the network: a Sequential, a model with ``.layers``, or with ``example_inputs`` or ``layers`` any module,
            also wrapped by ``torch.compile`` or DistributedDataParallel. With ``layers``, parameters or parameter
            groups will do.
        lr: step size.
        example_inputs: inputs of one forward, by which the units of any module are found (`gnt.trace`): a tensor, a
            tuple of positional or a dict of keyword arguments.
        include, exclude: of the units found, those whose names match patterns such as ``"*.mlp.*"``, and do not.
        layers: what the engine walks, where that is not ``net`` itself: a list of layers or unit groups.
        params: parameter groups; ``net.parameters()`` when not given.
        settings: of `GnT` (``replacement_rate``, ``maturity_threshold``, ``decay_rate``, ``utility``, ``init``,
            ``accumulate``, ``bias_transfer``, ``generator``, ``activation``) and of the optimizer (``momentum``,
            ``weight_decay``, ...); ``kernels`` is both's.

    Raises:
        TypeError: parameters in place of the network and no ``layers``; a setting that nothing would use.
        ValueError: as `GnT` and `gnt.trace`.

    Source: Dohare et al., Nature 632 (2024), Algorithm 1.

    >>> import torch
    >>> from gnt.optim import CBPSGD
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> optimizer = CBPSGD(net, lr=0.01, momentum=0.9, replacement_rate=0.1, maturity_threshold=2)
    >>> for _ in range(5):
    ...     optimizer.zero_grad()
    ...     net(torch.randn(8, 4)).square().mean().backward()
    ...     optimizer.step()
    >>> optimizer.gnt.groups[0].state.replaced
    4
    """

    _base = torch.optim.SGD
    _compiled: CompiledSGD | None = None

    @lean
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step; the engine's follows. With ``kernels``, and nothing but gradient descent to do, by a kernel.

        Args:
            closure: evaluates the model again, with gradients, and returns the loss; which is then returned.
        """
        if closure is None and self.gnt.kernels and not torch.compiler.is_compiling():
            if self._compiled is None:
                self._compiled = CompiledSGD()
            if self._compiled.step(self.param_groups, self.gnt.weight_means):
                return None
        loss: float | None = _sgd_step(self, closure)
        return loss


_sgd_step = unwrapped(torch.optim.SGD.step)


class _ContinualAdam(_Continual, AdamGnT):
    _base = AdamGnT

    def _weight_places(self) -> Places:
        return self.gnt.weight_means if self.kernels else super()._weight_places()


class CBPAdam(_ContinualAdam):
    """`AdamGnT` with continual backpropagation. Arguments and errors as for `CBPSGD`.

    >>> import torch
    >>> from gnt.optim import CBPAdam
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> optimizer = CBPAdam(net, lr=1e-3, betas=(0.9, 0.99), replacement_rate=1e-4)
    """


class CBPAdamW(_ContinualAdam):
    """`AdamGnT` with AdamW's decoupled weight decay (0.01 if not set) and continual backpropagation, as `CBPSGD`.

    >>> import torch
    >>> from gnt.optim import CBPAdamW
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> optimizer = CBPAdamW(net, lr=1e-3, weight_decay=0.1, replacement_rate=1e-4)
    """

    _preset: ClassVar[dict[str, Any]] = {"weight_decay": 1e-2}
    _fixed: ClassVar[dict[str, Any]] = {"decoupled_weight_decay": True}
