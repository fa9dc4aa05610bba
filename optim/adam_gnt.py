"""AdamGnT: Adam for networks whose units are replaced while they learn.

Adam divides its moments by 1 - b^t because they start at zero. When a unit is replaced its moments start at
zero again, and so must its t: with the old t the fresh unit's first steps would be about three times too long
(b1 = 0.9, b2 = 0.999), with the old moments it would drift at once. ``AdamGnT.reset_units`` restarts both for
the slices of a unit; ``gnt.optim.unit_counts`` keeps the counts. Everything else is torch's own Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from gnt._utils.dynamo import not_compiled
from gnt.optim import _validation as checks
from gnt.optim._adam import load_state as loading
from gnt.optim._adam import state as adam_state
from gnt.optim._adam import step_counts as unit_counts
from gnt.optim._adam.dispatch import Places, Roster
from gnt.optim._step_wrapper import lean

_NOWHERE: Places = {}


class AdamGnT(Optimizer):
    r"""Adam and AdamW whose step counts restart per unit.

    For every element, with gradient g (negated if ``maximize``) and t the steps since its own last reset::

        Adam:   g <- g + weight_decay * p              AdamW:   p <- p * (1 - lr * weight_decay)
        m <- b1 * m + (1 - b1) * g
        v <- b2 * v + (1 - b2) * g^2                   amsgrad: v^ <- max(v^, v), used for v below
        p <- p - lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    A parameter of which no unit was ever reset is stepped by torch's own functional Adam, so it equals
    torch.optim.Adam or AdamW with the same flags to the last bit. Where ``foreach`` and ``fused`` are left open,
    plain tensors on CPU and CUDA take the fused one, which differs from torch's default by rounding. From its first
    reset on a parameter is stepped here by plain tensor operations, whatever ``foreach`` and ``fused`` say; units
    that were not reset then go on as in torch's for-loop implementation (to the last bit in float32 and float64 on
    the CPU, up to rounding elsewhere).

    ``kernels`` steps all contiguous float32 and float64 parameters on the CPU, reset or not, by a C++ kernel: the
    same arithmetic in one pass over memory, up to rounding. It sets moments below the smallest normal number (1e-38
    in float32) to zero, as computing with such is slow; unless eps is below 1e-10 they are of no account. Others
    are stepped as without.

    State: two values per element (three with amsgrad), a step count on the host and, from the first reset on,
    an int64 per row and per column. Neither ``step`` nor ``reset_units`` waits for the device.

    Args:
        params: parameters or parameter groups, as for any torch optimizer; groups may set every option below.
        lr: step size: a number, or a tensor of one element.
        betas: decay rates b1 and b2 of the two moments, each in [0, 1).
        eps: added to the denominator.
        weight_decay: strength of the weight decay; ``p.grad`` is never changed.
        amsgrad: divide by the greatest v so far.
        maximize: go up the gradient.
        decoupled_weight_decay: AdamW's weight decay. AdamW's own default strength is 0.01, here it is 0.
        foreach: which of torch's implementations to use, as in torch.optim.Adam.
        fused: likewise; with neither given True for plain tensors on CPU and CUDA. Also when fused, a GradScaler
            unscales the gradients before the step.
        kernels: step by a C++ kernel, which the compiler of torch.compile builds at the first step.

    Raises:
        TypeError, ValueError: at construction, for an option or a parameter that Adam is not defined for.
        RuntimeError: in ``step``, for sparse gradients or where ``kernels`` finds no compiler that works; before any
            parameter is changed.

    Not taken from torch.optim.Adam: ``capturable`` (the counts are on the host, so a step in a CUDA graph's
    capture is refused) and ``differentiable``. A state_dict of torch.optim.Adam loads all the same.
    torch.compile leaves its step as it is; ``kernels`` is for that.

    Sources: Kingma & Ba 2015, Algorithm 1; Loshchilov & Hutter 2019, Algorithm 2 (decoupled weight decay);
    Reddi, Kale & Kumar 2018, Algorithm 2 (amsgrad; corrected for the bias, as torch does).

    After ten steps unit 0 of the layer is replaced. Its next step is lr long again, like Adam's first:

    >>> import torch
    >>> from gnt.optim import AdamGnT
    >>> layer = torch.nn.Linear(3, 2)
    >>> optimizer = AdamGnT(layer.parameters(), lr=0.01)
    >>> for _ in range(10):
    ...     optimizer.zero_grad()
    ...     layer(torch.randn(8, 3)).square().mean().backward()
    ...     optimizer.step()
    >>> optimizer.reset_units(layer.weight, dim=0, index=[0])
    >>> before = layer.weight.detach().clone()
    >>> layer.weight.grad = torch.tensor([[4.0, -0.1, 0.0], [1.0, 1.0, 1.0]])
    >>> optimizer.step()
    >>> [round(moved, 4) + 0.0 for moved in (layer.weight.detach() - before)[0].tolist()]
    [-0.01, 0.01, 0.0]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        kernels: bool = False,
    ) -> None:
        checks.check_flag("kernels", kernels)
        self.kernels = kernels
        self._rosters: dict[int, Roster] = {}
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
            "foreach": foreach,
            "fused": fused,
        }
        checks.check_options(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own; those not set are as given to the constructor.

        Raises TypeError or ValueError for an option out of range or a complex parameter.
        """
        if isinstance(param_group, dict):
            checks.check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)
        for param in self.param_groups[-1]["params"]:
            if param.is_complex():
                self.param_groups.pop()
                raise TypeError(f"AdamGnT takes real parameters, got a {param.dtype} one of shape {tuple(param.shape)}")

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @lean
    @not_compiled  # compiled, the count on the host would be frozen into the graph
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step on every parameter that has a gradient.

        Args:
            closure: evaluates the model again, with gradients, and returns the loss; which is then returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params = [[param for param in group["params"] if param.grad is not None] for group in self.param_groups]
        grads = [[param.grad for param in each] for each in params]
        checks.check_gradients(params, grads)
        rosters = [self._roster(i, group, params[i]) for i, group in enumerate(self.param_groups)]
        for roster, each, group in zip(rosters, grads, self.param_groups, strict=True):
            roster.step(each, group)
        return loss

    def _roster(self, i: int, group: dict[str, Any], params: list[Tensor]) -> Roster:
        """What steps these parameters of the i-th group: as in the step before, if nothing has changed."""
        roster = self._rosters.get(i)
        places = self._weight_places()
        if roster is None or not roster.fits(params, group, self.state, places):
            with torch.no_grad():
                roster = self._rosters[i] = Roster(params, group, self.state, places, compiled=self.kernels)
        if roster.on_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("AdamGnT counts its steps on the host: a CUDA graph cannot capture them")
        return roster

    def _weight_places(self) -> Places:
        """Where somebody wants the means of |w|, which the kernel can sum on its way; CBPAdam's engine does."""
        return _NOWHERE

    @not_compiled
    @torch.no_grad()
    def reset_units(self, param: Tensor, dim: int, index: Tensor | Sequence[int], groups: int = 1) -> None:
        """Forget everything about some units: moments 0, step counts 0. The parameter itself is not changed.

        A parameter that was never stepped has nothing to forget; the call is checked, and does nothing.

        Args:
            param: a parameter of this optimizer.
            dim: 0 for rows (a producer's weight, bias, norm parameter), 1 for columns (a consumer's weight).
            index: which rows or columns, as a 1-d LongTensor or a list of ints.
            groups: for dim 1 of a grouped convolution's weight (out, in / groups, *kernel), the number of
                groups; index then counts input channels 0..in-1. Without meaning for dim 0.

        Raises:
            TypeError: index is neither of the two; dim or groups is no int.
            ValueError: the parameter is not in this optimizer; dim or an index is out of range (not checked
                for an index on an accelerator: that would wait for the device); groups does not divide the
                rows, or differs from earlier calls for the same parameter.
        """
        if not isinstance(param, Tensor):
            raise TypeError(f"param must be a parameter of this optimizer, got {type(param).__name__}")
        if param not in self.state and all(param is not held for held in self._held()):
            raise ValueError(f"the parameter of shape {tuple(param.shape)} is not in any of this optimizer's groups")
        state = self.state.get(param, {})
        size = checks.checked_size(param, dim, groups, state)
        units = checks.checked_units(index, size, param.device)
        if not state or not units.numel():
            return
        for key in adam_state.MOMENTS:
            if key in state:
                unit_counts.clear(state[key], dim, units, groups)
        unit_counts.restart(state, size, dim, units, int(state["step"].tolist()))

    def state_dict(self) -> dict[str, Any]:
        """As of any torch optimizer. The counts of units never reset are there, too, as zeros.

        So its keys stay the same: checkpoint libraries that load in place take only what a fresh optimizer has.
        """
        state_dict = super().state_dict()
        saved_ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        for param, saved_id in zip(self._held(), saved_ids, strict=True):
            saved = state_dict["state"].get(saved_id)
            if saved:
                state_dict["state"][saved_id] = {**unit_counts.never_reset(param), **saved}
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` of an AdamGnT, or of torch.optim.Adam or AdamW, gave.

        As in every torch optimizer the moments take the dtype and device of their parameters, and hooks run.
        The counts stay whole: torch would cast them like moments, and bfloat16 cannot count beyond 256.

        Raises ValueError for counts that do not fit the parameters, before anything is changed.
        """
        with loading.whole_counts(self):
            super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "kernels": self.kernels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("kernels", self.__dict__.pop("compile", False))  # its name in earlier pickles, if any
        self._rosters = {}
        for group in self.param_groups:
            for name, default in self.defaults.items():
                group.setdefault(name, default)
            for unknown in ("capturable", "differentiable"):  # from a state_dict of torch.optim.Adam
                group.pop(unknown, None)

    def _held(self) -> chain[Tensor]:
        return chain.from_iterable(group["params"] for group in self.param_groups)
