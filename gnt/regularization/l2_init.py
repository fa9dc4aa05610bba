"""L2 Init, regenerative regularisation: a pull towards the initial parameters."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gnt.regularization._parameters import STATE_VERSION, ModuleOrParameters, check_saved, check_shapes
from gnt.regularization._quadratic import Pull


class L2Init(Pull):
    """Regenerative regularisation: strength * sum of (theta - theta_0)^2, a differentiable scalar to add to the loss.

    theta_0 are the values that the parameters have when this is built, so build it right after the network. Where the
    loss has nothing to say, parameters drift back to where learning was easy.

    Args:
        params: a module, whose parameters that require a gradient are taken, or a list of parameters.
        strength: a number >= 0; may be changed later (``reg.strength = 1e-3``).

    Raises:
        TypeError: neither a module nor a list of parameters.
        ValueError: a strength below 0 or not finite; no parameters; one that is frozen, lazy, given twice or not real.

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
        """theta_0, a tensor for each parameter."""
        return self._targets()

    def _targets(self) -> list[Tensor]:
        pairs = list(zip(self._start, self.parameters, strict=True))
        if any(start.device != p.device or start.dtype != p.dtype for start, p in pairs):  # the network was moved
            self._start = [start.to(p.device, p.dtype) for start, p in pairs]
        return self._start

    def state_dict(self) -> dict[str, Any]:
        """theta_0, in copies. The strength is a setting, and is not saved."""
        return {"version": STATE_VERSION, "start": [start.clone() for start in self._start]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take theta_0 from a saved state: a resumed run is pulled to where the first one began.

        Raises:
            ValueError: not what `state_dict` gave, or of another network. Nothing is changed.
        """
        check_saved(state_dict, ["start"], "L2Init.state_dict()")
        check_shapes(state_dict["start"], self.parameters, self.names)
        pairs = zip(state_dict["start"], self.parameters, strict=True)
        self._start = [start.detach().to(p.device, p.dtype, copy=True) for start, p in pairs]
