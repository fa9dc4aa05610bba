"""L2 Init (regenerative regularization): a penalty that pulls parameters towards their initial values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnt._utils.parameters import ModuleOrParameters
from gnt._utils.state_dicts import check_saved_state, tensors_like
from gnt.regularization._quadratic import QuadraticPenalty
from gnt.units import copy_slices

STATE_VERSION = 1


class L2Init(QuadraticPenalty):
    """Regenerative regularization: strength * sum of (theta - theta_0)^2, a differentiable scalar to add to the loss.

    theta_0 are the values of the parameters when this object is built, so build it right after the network. Parameters
    on which the loss depends little drift back to their initial values, from which the network could learn.

    With an engine that replaces units, pass this object as ``GnT(net, follow=[reg])`` or to ``engine.follow(reg)``:
    theta_0 of a replaced unit is then its new weights, instead of those of the unit before, and theta_0 of a consumer's
    bias changes with the bias.

    Args:
        params, strength: same as `L2`; the same errors are raised.

    Source: Kumar, Marklund, Van Roy, arXiv 2308.11958.

    >>> import torch, gnt
    >>> net = torch.nn.Linear(4, 1)
    >>> reg = gnt.L2Init(net, strength=1e-3)
    >>> reg().item()
    0.0
    >>> loss = net(torch.randn(8, 4)).square().mean() + reg()
    >>> loss.backward()
    """

    def __init__(self, params: ModuleOrParameters, strength: float) -> None:
        super().__init__(params, strength)
        self._start = [parameter.detach().clone() for parameter in self.parameters]

    @property
    def start(self) -> list[Tensor]:
        """theta_0, one tensor for each parameter."""
        return self._targets()

    def _targets(self) -> list[Tensor]:
        pairs = list(zip(self._start, self.parameters, strict=True))
        if any(start.device != p.device or start.dtype != p.dtype for start, p in pairs):  # the network was moved
            with torch.inference_mode(False), torch.no_grad():  # it is changed in place later
                self._start = [start.to(p.device, p.dtype) for start, p in pairs]
        return self._start

    @torch.no_grad()
    def reset_units(self, param: Tensor, dim: int, index: Tensor, groups: int = 1) -> None:
        """Set theta_0 of slices to the present values of the parameter; a parameter that is not regularized is ignored.

        Args:
            param: the parameter.
            dim, index, groups: the slices, as for `gnt.replacement.Follower`.
        """
        for own, start in zip(self.parameters, self._targets(), strict=True):
            if own is param:
                copy_slices(start, param, dim, index, groups)

    @torch.no_grad()
    def move_bias(self, bias: Tensor, change: Tensor) -> None:
        """Add a change of a bias to its theta_0."""
        for own, start in zip(self.parameters, self._targets(), strict=True):
            if own is bias:
                start.add_(change)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of theta_0. The strength is a setting and is not saved."""
        return {"version": STATE_VERSION, "start": [start.clone() for start in self._start]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load theta_0, so that a resumed run is pulled towards the initial values of the original run.

        Raises:
            ValueError: not the result of `state_dict`, or of another network, or with values that are not finite.
                Nothing is changed.
        """
        kinds = {"start": tensors_like(self.parameters, self.names)}
        self._start = check_saved_state(state_dict, "L2Init.state_dict()", kinds, STATE_VERSION)["start"]
