"""AdamGnT: Adam with a step count per unit, for networks whose units are replaced during training.

Adam divides its moments by 1 - b^t because they start at zero. When a unit is replaced, its moments restart at zero, so
its t must restart too: with the old t, the first steps of the new unit would be about three times too long (b1 = 0.9,
b2 = 0.999); with the old moments, it would move at once in the old direction. `AdamGnT.reset_units` restarts both for
the slices of a unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from gnt._kernels import use_kernels
from gnt._utils.dynamo import not_compiled
from gnt._utils.validation import check_flags, check_kernels
from gnt.importance import WeightMeans
from gnt.optim._adam.dispatch import StepPlan
from gnt.optim._adam.load_state import exact_step_counts
from gnt.optim._adam.state import MOMENTS, clear_slices
from gnt.optim._adam.step_counts import START_KEYS, count_elements, restart, single_dim, zero_starts
from gnt.optim._gradient_checks import GradientChecks
from gnt.optim._options import ADAM_OPTIONS, ChangedOptions, CheckOptions, check_adam_options, check_option_names
from gnt.optim._step_wrapper import is_own_step, wrap_uncompiled_step
from gnt.optim._validation import check_parameters, checked_size, checked_units, layout_error

_NO_WEIGHT_MEANS: Mapping[int, WeightMeans] = {}


class AdamGnT(Optimizer):
    r"""Adam and AdamW with step counts that restart per unit.

    For every element, with gradient g (negated if ``maximize``) and t the number of steps since its last reset::

        Adam:   g <- g + weight_decay * p              AdamW:   p <- p * (1 - lr * weight_decay)
        m <- b1 * m + (1 - b1) * g
        v <- b2 * v + (1 - b2) * g^2                   amsgrad: v^ <- max(v^, v), used for v below
        p <- p - lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    Contiguous float32 and float64 parameters on the CPU, reset or not, are stepped by a C kernel, in one pass over
    memory (docs/kernels.md). It rounds differently than torch's implementations, and sets subnormal moments to zero in
    each step. It is not used with ``kernels=False``, nor with ``foreach`` or ``fused`` unless ``kernels=True``. What
    follows is about all other parameters.

    A parameter of which no unit was ever reset is stepped by torch's functional Adam: it equals torch.optim.Adam or
    AdamW with the same flags to the last bit (with step size and betas as numbers; as tensors torch computes with them
    in their own dtype). If neither ``foreach`` nor ``fused`` is set, plain tensors on CPU and CUDA use the fused
    implementation, which differs from torch's default by rounding. From its first reset on, a parameter is stepped by
    separate tensor operations, whatever ``foreach`` and ``fused`` are, or on a GPU with Triton by its kernels, unless
    ``kernels=False``. Its units that were not reset then follow torch's for-loop implementation (to the last bit in
    float32 and float64 on the CPU, up to rounding elsewhere), except for subnormal moments.

    Subnormal moments, those below the smallest normal number (1e-38 in float32, bfloat16), remain for ever in weights
    that get no gradient, and computing with them is slow. From a parameter's first reset on they are set to zero in
    every eighth step, on the CPU and in all dtypes but float16, if eps is at least 1e-10. What they would have added to
    a step is below 1e-12 * lr. Before the first reset they remain, as in torch.optim.Adam.

    State: two values per element (three with amsgrad), a step count on the host and, from the first reset on, one int64
    per row and per column. Neither ``step`` nor ``reset_units`` synchronizes with the device.

    Args:
        params: parameters or parameter groups, as for any torch optimizer. Groups may set all options but ``kernels``.
        lr: step size: a number, or a tensor of one element.
        betas: decay rates b1 and b2 of the two moments, each in [0, 1): numbers, or tensors of one element.
        eps: added to the denominator.
        weight_decay: strength of the weight decay. ``p.grad`` is never changed.
        amsgrad: divide by the largest v so far.
        maximize: ascend the gradient.
        decoupled_weight_decay: AdamW's weight decay. The default strength is 0, unlike AdamW's 0.01.
        foreach: which of torch's implementations to use, as in torch.optim.Adam.
        fused: as in torch.optim.Adam; the default for plain tensors on CPU and CUDA if ``foreach`` is not set either. A
            GradScaler unscales the gradients before the step, also with ``fused``.
        kernels: step by the C kernel what it can step. None: if there are kernels on this machine, and neither
            ``foreach`` nor ``fused`` is set; True: always; False: never.
        capturable: keep step counts on the device, for steps that are captured in a CUDA graph.

    Raises:
        TypeError, ValueError: at construction, for an invalid option or parameter.
        RuntimeError: in ``step``, for gradients that are sparse, complex, or have another shape or device than their
            parameter. Nothing is changed. Gradients of another real dtype are converted. At construction, for
            ``kernels=True`` if there are none, with the reason.

    With ``capturable``, the step counts are on the parameters' devices, so that a step can be captured in a CUDA graph
    after at least one step outside of the capture; replays then count. Units may be reset between replays, except input
    channels of grouped convolutions.

    Not supported: ``differentiable``. A state_dict of torch.optim.Adam with these options can be loaded. torch.compile
    does not compile the step.

    Sources: Kingma & Ba 2015, Algorithm 1; Loshchilov & Hutter 2019, Algorithm 2 (decoupled weight decay);
    Reddi, Kale & Kumar 2018, Algorithm 2 (amsgrad; with bias correction, as in torch).

    After ten steps, unit 0 of the layer is replaced. The length of its next step is lr, as in Adam's first step:

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

    start_keys: ClassVar[tuple[str, str]] = START_KEYS
    """State keys, by dimension: the steps after which the step counts of a parameter's rows (columns) started."""

    _check_options: ClassVar[CheckOptions] = staticmethod(check_adam_options)
    _given_weight_means = _NO_WEIGHT_MEANS

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        kernels: bool | None = None,
        capturable: bool = False,
    ) -> None:
        check_kernels(kernels)
        check_flags(capturable=capturable)
        use_kernels(kernels, fit=False)
        self.kernels, self.capturable = kernels, capturable
        self._plans: dict[int, StepPlan] = {}
        self._planned_kernels = kernels
        self._any_on_cuda = False
        self._options = ChangedOptions(ADAM_OPTIONS, self._check_options)
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
        self._check_options(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with their own options. Options that are not set are those of the constructor.

        Raises TypeError or ValueError for an invalid option or a complex parameter.
        """
        if isinstance(param_group, dict):
            check_option_names(param_group, ADAM_OPTIONS)
            self._check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)
        for param in self.param_groups[-1]["params"]:
            if param.is_complex():
                self.param_groups.pop()
                raise TypeError(
                    f"AdamGnT requires real parameters, got dtype {param.dtype} for a parameter of shape "
                    f"{tuple(param.shape)}"
                )

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @wrap_uncompiled_step  # in a compiled graph, the step counts on the host would be constants
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step on every parameter that has a gradient.

        Args:
            closure: reevaluates the model with gradients and returns the loss, which is then returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._options.check(self.param_groups)
        params: list[list[Tensor]] = []
        grads: list[list[Tensor]] = []
        strided = True
        for group in self.param_groups:
            params.append(with_gradient := [param for param in group["params"] if param.grad is not None])
            grads.append(of_group := [])
            for param in with_gradient:
                grad = param.grad
                of_group.append(grad)
                strided = strided and grad.layout is torch.strided
        if not strided:
            raise layout_error(params, grads)
        self._update_plans(params, grads)
        plans, steps = self._plans, []
        for i, of_group in enumerate(grads):  # those of all groups before any group is stepped
            steps.append((plans[i], plans[i].checked_gradients(of_group), self.param_groups[i]))
        for plan, checked, group in steps:
            plan.step(checked, group)
        return loss

    def _update_plans(self, params: list[list[Tensor]], grads: list[list[Tensor]]) -> None:
        """Make new plans unless those of the previous step hold for these parameters of each group."""
        if self.kernels is not self._planned_kernels:
            self._plans, self._planned_kernels = {}, self.kernels
        groups, weight_means, plans = self.param_groups, self._weight_means(), self._plans
        changed = []
        for i, group in enumerate(groups):
            plan = plans.get(i)
            if plan is None or not plan.is_valid(params[i], group, self.state, weight_means):
                changed.append(i)
        if not changed and not self._any_on_cuda:
            return
        on_cuda = self._any_on_cuda or any(param.is_cuda for i in changed for param in params[i])
        capturing = on_cuda and torch.cuda.is_current_stream_capturing()
        if capturing and not self.capturable:
            raise RuntimeError(
                "AdamGnT cannot step while a CUDA graph is being captured, because its step counts are on the host; "
                "take the step outside of the capture, or construct the optimizer with capturable=True"
            )
        if capturing and changed:
            raise RuntimeError(
                "AdamGnT must have taken a step on the same parameters, outside of the capture, before a step is "
                "captured in a CUDA graph: its state is created in that step"
            )
        if changed:
            for i in changed:
                GradientChecks(params[i]).checked(grads[i])
                check_parameters(params[i], groups[i], self.state)
            with torch.no_grad():
                for i in changed:
                    plans[i] = StepPlan(
                        params[i],
                        groups[i],
                        self.state,
                        weight_means,
                        kernels=self._uses_kernels(groups[i]),
                        triton=self.kernels is not False,
                        capturable=self.capturable,
                    )
            self._any_on_cuda = any(plan.on_cuda for plan in plans.values())

    def _uses_kernels(self, group: Mapping[str, Any]) -> bool:
        """True if what the kernel can step is to be stepped by it."""
        of_torch = group["foreach"] is not None or group["fused"] is not None
        return use_kernels(self.kernels, fit=bool(self.kernels) or not of_torch)

    def _weight_means(self) -> Mapping[int, WeightMeans]:
        """Where the kernel writes means of |w|, by the parameter's id. Overridden by subclasses with an engine."""
        return self._given_weight_means

    def write_weight_means(self, weight_means: Mapping[int, WeightMeans] | None) -> None:
        """Let the kernel write means of |w|, from the next step on, for an engine that is stepped after this optimizer.

        Args:
            weight_means: where to write them, by the parameter's id; None: nowhere.
        """
        if weight_means is None or not is_own_step(self, AdamGnT.step):  # another step may change weights afterwards
            weight_means = _NO_WEIGHT_MEANS
        self._given_weight_means = weight_means

    @not_compiled
    @torch.no_grad()
    def reset_units(self, param: Tensor, dim: int, index: Tensor | Sequence[int], groups: int = 1) -> None:
        """Reset the state of units: their moments and step counts become 0. The parameter itself is not changed.

        For a parameter that was never stepped, the arguments are checked and nothing is done.

        Args:
            param: a parameter of this optimizer.
            dim: 0 for rows (a producer's weight, a bias, a norm parameter), 1 for columns (a consumer's weight). For a
                parameter that is larger than 1 in one other dimension only, such as (1, 1, 1, 8), also this dimension.
            index: which rows, columns or elements, as a 1-d LongTensor or a list of ints.
            groups: for dim 1 of a grouped convolution's weight (out, in / groups, *kernel), the number of groups; index
                then refers to input channels 0..in-1. Ignored for other dims.

        Raises:
            TypeError: index is not a LongTensor or list of ints; dim or groups is not an int.
            ValueError: the parameter is not in this optimizer; dim or an index is out of range (an index on an
                accelerator is not checked, which would synchronize); groups does not divide the rows, or differs from
                earlier calls for the same parameter.
        """
        if not isinstance(param, Tensor):
            raise TypeError(f"param must be a parameter of this optimizer, got {type(param).__name__}")
        if param not in self.state and all(param is not own for own in self._params()):
            raise ValueError(f"the parameter of shape {tuple(param.shape)} is not in any of this optimizer's groups")
        state = self.state.get(param, {})
        size = checked_size(param, dim, groups, state)
        units = checked_units(index, size, param.device)
        if not state or not units.numel():
            return
        for key in MOMENTS:
            if key in state:
                clear_slices(state[key], dim, units, groups)
        step = state["step"]
        restart(state, param.shape, size, dim, units, int(step.tolist()) if step.is_cpu else step)

    def unit_state(self, param: Tensor, dim: int) -> list[tuple[Tensor, float | Tensor]] | None:
        """The tensors that `reset_units` changes for units along ``dim``, each with the value of a new unit.

        For kernels of an engine, which write them in place of `reset_units`. None if it does more: the first reset adds
        step counts, and some parameters have one for each element. Input channels of grouped convolutions are not
        meant.
        """
        state = self.state.get(param)
        if not state:
            return []
        if dim > 1 or single_dim(param.shape) is not None or START_KEYS[dim] not in state:
            return None
        moments: list[tuple[Tensor, float | Tensor]] = [(state[key], 0.0) for key in MOMENTS if key in state]
        return [*moments, (state[START_KEYS[dim]], state["step"])]

    @torch.no_grad()
    def reset_elements(self, param: Tensor, chosen: Tensor) -> None:
        """Set the moments of single elements to 0, for `gnt.SWR`. Step counts are per unit and are kept.

        Args:
            param: a parameter of this optimizer; one that was never stepped has no moments.
            chosen: which elements, bool of the parameter's shape.
        """
        for key in MOMENTS:
            if key in self.state.get(param, {}):
                self.state[param][key].masked_fill_(chosen, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """The state, as of any torch optimizer. Starts of parameters that were never reset are included as zeros.

        So the keys do not depend on resets: checkpoint libraries that load in place need the keys in advance. Those of
        grouped convolutions have one start for each input channel from the first reset on, and for each column of the
        weight before.
        """
        state_dict = super().state_dict()
        saved_ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        for param, saved_id in zip(self._params(), saved_ids, strict=True):
            saved = state_dict["state"].get(saved_id)
            if saved:
                own = dict(saved)
                count_elements(own, param.shape)
                state_dict["state"][saved_id] = {**zero_starts(param), **own}
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the ``state_dict`` of an AdamGnT, torch.optim.Adam or torch.optim.AdamW.

        As in every torch optimizer, moments are cast to the dtype and device of their parameters, and hooks run. Step
        counts are not cast: bfloat16 cannot count beyond 256.

        Raises ValueError for counts that do not fit the parameters, before anything is changed.
        """
        with exact_step_counts(self, self._check_options):
            super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "kernels": self.kernels, "capturable": self.capturable}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("kernels", self.__dict__.pop("compile", False))  # from an earlier version
        self.__dict__.setdefault("capturable", False)
        self._plans, self._planned_kernels, self._any_on_cuda = {}, self.kernels, False
        self._options = ChangedOptions(ADAM_OPTIONS, self._check_options)
        for group in self.param_groups:
            for name, default in self.defaults.items():
                group.setdefault(name, default)
            for unsupported in ("capturable", "differentiable"):  # from a state_dict of torch.optim.Adam
                group.pop(unsupported, None)

    def _params(self) -> chain[Tensor]:
        return chain.from_iterable(group["params"] for group in self.param_groups)
