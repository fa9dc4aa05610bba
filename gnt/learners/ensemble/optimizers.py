"""Optimizers that work element by element, so that members side by side in one parameter do not see each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gnt.optim import AdamGnT
from gnt.replacement import find_state_resets, known_optimizers, unwrap_optimizer

_MIXING = {
    "Muon": "it orthogonalises whole matrices",
    "SingleDeviceMuon": "it orthogonalises whole matrices",
    "SingleDeviceMuonWithAuxAdam": "it orthogonalises whole matrices",
    "LBFGS": "it mixes all parameters into flat vectors",
    "Adafactor": "its second moment is shared by whole rows and columns",
    "SparseAdam": "it takes sparse gradients only",
}


def made_by(make: Callable[[Any], Optimizer], net: nn.Module) -> Optimizer:
    """What ``make(parameters)`` gives; TypeError where members would learn from each other."""
    if isinstance(make, Optimizer) or not callable(make):
        raise TypeError(
            "opt must be a name or a function (parameters) -> optimizer, for the ensemble has parameters of its own; "
            f"got {type(make).__name__}"
        )
    optimizer = make(list(net.parameters()))
    inner = unwrap_optimizer(optimizer)
    if not isinstance(inner, Optimizer):
        raise TypeError(f"opt must return a torch.optim.Optimizer, got {type(optimizer).__name__}")
    why = _MIXING.get(type(inner).__name__)
    if why is None and not isinstance(inner, AdamGnT) and find_state_resets(inner) is None:
        names = ", ".join(name for name in known_optimizers() if name not in _MIXING)
        why = (
            f"gnt does not know it; known_optimizers are AdamGnT, {names}, and what gnt.register_state_reset describes"
        )
    if why is not None:
        raise TypeError(f"{type(inner).__name__} cannot train an ensemble, whose members share each parameter: {why}")
    return optimizer
