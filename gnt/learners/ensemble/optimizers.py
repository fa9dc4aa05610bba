"""Optimizers for ensembles: those that work element by element, since members share parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gnt.optim import UPGD, AdamGnT
from gnt.replacement import known_optimizers, unwrap_optimizer, works_elementwise

_NOT_ELEMENTWISE = {
    "Muon": "it orthogonalises whole matrices",
    "SingleDeviceMuon": "it orthogonalises whole matrices",
    "SingleDeviceMuonWithAuxAdam": "it orthogonalises whole matrices",
    "LBFGS": "it mixes all parameters into flat vectors",
    "Adafactor": "its second moment is shared by whole rows and columns",
    "SparseAdam": "it takes sparse gradients only",
}


def build_optimizer(factory: Callable[[Any], Optimizer], net: nn.Module) -> Optimizer:
    """The optimizer ``factory(parameters)``.

    Raises:
        TypeError: no function, no optimizer, or an optimizer that is not known to work element by element.
    """
    if isinstance(factory, Optimizer) or not callable(factory):
        raise TypeError(
            "opt must be a name or a function (parameters) -> optimizer, because the ensemble has its own parameters; "
            f"got {type(factory).__name__}"
        )
    optimizer = factory(list(net.parameters()))
    inner = unwrap_optimizer(optimizer)
    if not isinstance(inner, Optimizer):
        raise TypeError(f"opt must return a torch.optim.Optimizer, got {type(optimizer).__name__}")
    why = _NOT_ELEMENTWISE.get(type(inner).__name__)
    if why is None and not isinstance(inner, AdamGnT) and not works_elementwise(inner):
        names = ", ".join(name for name in known_optimizers("torch") if name not in _NOT_ELEMENTWISE)
        why = (
            "gnt does not know that it works element by element; known are AdamGnT, UPGD, "
            f"{names}, those of schedulefree and lion_pytorch, Lion and AdaBelief of pytorch_optimizer, and those "
            "described to gnt.register_state_reset"
        )
    for option in ("adanorm", "cautious"):  # of pytorch_optimizer: norms and means of a whole parameter
        if any(group.get(option) for group in inner.param_groups):
            why = f"with {option}=True it reads whole parameters"
    members = getattr(net, "members", 1)
    if isinstance(inner, UPGD) and inner.members != members:
        why = f"give it a list of {members} generators, one for each member; it has {inner.members}"
    if why is not None:
        raise TypeError(f"{type(inner).__name__} cannot train an ensemble, whose members share each parameter: {why}")
    return optimizer
