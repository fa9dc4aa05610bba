"""The engine's settings among a learner's keyword arguments.

A learner passes them on to `GnT`, whose defaults and checks apply. `inspect.signature` and `help` show them by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from gnt.replacement import ENGINE_SETTINGS, GnT

F = TypeVar("F", bound=Callable[..., None])

_GNT_PARAMETERS = inspect.signature(GnT).parameters

# learners use kernels where they can, unless compile=True, and do not scale losses
CONTINUAL_BACKPROP_SETTINGS = (*(name for name in ENGINE_SETTINGS if name not in ("kernels", "grad_scaler")), "follow")
# an ensemble has a list of generators, and trains in one process; what follows it needs the network that it stacks; all
# members replace equally many units, so that units of single ones cannot be protected
_NOT_OF_ENSEMBLES = ("generator", "process_group", "follow", "protect")
ENSEMBLE_SETTINGS = tuple(name for name in CONTINUAL_BACKPROP_SETTINGS if name not in _NOT_OF_ENSEMBLES)


def split_settings(settings: dict[str, Any], names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the engine, and all others, which are options of the optimizer."""
    engine = {name: value for name, value in settings.items() if name in names}
    return engine, {name: value for name, value in settings.items() if name not in names}


def accepts_engine_settings(names: Sequence[str]) -> Callable[[F], F]:
    """Decorate an ``__init__`` whose ``**settings`` include settings of `GnT`, so that its signature names them.

    >>> @accepts_engine_settings(["replacement_rate"])
    ... def init(self, net, **settings): ...
    >>> inspect.signature(init)
    <Signature (self, net, *, replacement_rate: 'float' = 0.0001, **settings)>
    """

    def decorate(init: F) -> F:
        signature = inspect.signature(init)
        *own, rest = signature.parameters.values()
        engine = [_GNT_PARAMETERS[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in names]
        init.__signature__ = signature.replace(parameters=[*own, *engine, rest])  # type: ignore[attr-defined]
        return init

    return decorate
