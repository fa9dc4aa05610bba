"""UPGD: utility-based perturbed gradient descent, which learns slowly in useful weights and perturbs useless ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from gnt._kernels import check_gradient, use_kernels
from gnt._utils.dynamo import not_compiled
from gnt._utils.generators import member_generators
from gnt._utils.state_dicts import Entry, counter, random_state, sequence
from gnt._utils.validation import check_flags, check_kernels, finite_number, to_float
from gnt.distributed.dtensor import is_dtensor
from gnt.names import UtilityScaling
from gnt.optim._options import ChangedOptions, check_option_names
from gnt.optim._pieces import change_in_pieces, fits_pieces
from gnt.optim._saved_state import check_entries, check_saved_options, saved_entries
from gnt.optim._upgd_kernel import change_by_kernel, fits_kernel, update_utilities
from gnt.optim._validation import check_state_shapes
from gnt.replacement import register_state_reset

_TINY = torch.finfo(torch.float32).tiny
_OPTIONS = ("lr", "decay_rate", "sigma", "weight_decay", "factor", "protecting", "scaling", "betas", "eps")
_AVERAGES = ("avg_utility", "exp_avg", "exp_avg_sq")


class UPGD(Optimizer):
    r"""Utility-based perturbed gradient descent: protects useful weights and perturbs the others.

    For every weight w with gradient g, noise n ~ N(0, sigma^2) and k the number of steps::

        u <- decay_rate * u + (1 - decay_rate) * (-g * w)         first-order utility: what removing w would cost
        U = sigmoid(u^ / max u^),   u^ = u / (1 - decay_rate^k)   "global": the maximum over all weights
        w <- (1 - lr * weight_decay) * w - factor * lr * (g + n) * (1 - U)

    With ``scaling="local"`` u^ is divided by its Euclidean norm along the last dimension instead of the maximum. With
    ``protecting=False`` the utility reduces the noise only: (g + n * (1 - U)). With ``betas`` g is replaced by Adam's
    step m / (1 - b1^k) / (sqrt(v / (1 - b2^k)) + eps), with the moments m and v of g (the authors' AdaptiveUPGD).

    Args:
        params: parameters or parameter groups, as for any torch optimizer. Groups may set all options but
            ``generator``.
        lr: step size.
        decay_rate: that of the utility's running average, in [0, 1).
        sigma: standard deviation of the noise, >= 0.
        weight_decay: decoupled weight decay, >= 0.
        factor: factor of the step. 2, the authors' default, makes the step of a weight without utility that of SGD,
            since 1 - sigmoid(0) = 1/2; their experiments use 1.
        protecting: the utility reduces the gradient, too.
        scaling: "global" or "local".
        betas: decay rates of Adam's moments, each in [0, 1); None: no moments.
        eps: added to Adam's denominator.
        generator: generator of the noise; None creates one, seeded from torch's global generator. Processes that train
            one network together need generators with the same seed. For the network of a `gnt.Ensemble` a list of
            generators, one for each member: each has its own maximum and noise, as if it were trained alone, with
            ``opt=lambda params: UPGD(params, generator=generators)``.
        kernels: step by C kernels where they can be used (contiguous float32 and float64 parameters on the CPU); with
            ``scaling="local"`` for the utility only. None: if there are any; True: required; False: torch operations.

    The maximum is taken of corrected averages and is at least 1e-38: the authors' code divides corrected averages by a
    maximum that is not corrected, and changes all signs if it is negative. Averages are kept in float32 or wider, and
    the state_dict contains the states of the generators. Units that `gnt.GnT` replaces get utility and moments 0. A
    gradient with NaN makes the maximum NaN, and with it all weights. On a CPU the noise takes a large part of a step's
    time; with ``sigma=0`` none is drawn.

    Kernels and torch operations draw different noise. That of kernels is computed from one number that is drawn in each
    step (Philox4x32-10 and the transform of Box and Muller), and does not depend on the number of threads.

    Raises:
        ValueError, TypeError: an invalid option or parameter.
        RuntimeError: ``kernels=True`` and there are none; in ``step``, for gradients that are sparse, or have another
            shape or device than their parameter, and for a parameter whose shape was changed after its first step.
            Nothing is changed.

    Source: Elsayed & Mahmood, ICLR 2024 (arXiv 2404.00781), Algorithm 1 and the authors' code. Their second-order
    utility needs the Hessian's diagonal and is not included.

    >>> import torch, gnt
    >>> net = torch.nn.Linear(4, 1)
    >>> optimizer = gnt.optim.UPGD(net.parameters(), lr=0.01, sigma=0.001)
    >>> net(torch.randn(8, 4)).square().mean().backward()
    >>> optimizer.step()
    """

    kernels: bool | None = None
    _changed_options: ChangedOptions | None = None

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        *,
        decay_rate: float = 0.999,
        sigma: float = 1e-3,
        weight_decay: float = 0.0,
        factor: float = 2.0,
        protecting: bool = True,
        scaling: UtilityScaling = "global",
        betas: tuple[float, float] | None = None,
        eps: float = 1e-8,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        kernels: bool | None = None,
    ) -> None:
        check_kernels(kernels)
        use_kernels(kernels)
        defaults = {
            "lr": lr,
            "decay_rate": decay_rate,
            "sigma": sigma,
            "weight_decay": weight_decay,
            "factor": factor,
            "protecting": protecting,
            "scaling": scaling,
            "betas": betas,
            "eps": eps,
        }
        _check_options(defaults)
        super().__init__(params, defaults)
        self.kernels = kernels
        own = list(self._params())
        self.generators = member_generators(generator, own, [str(i) for i in range(len(own))], None)

    @property
    def members(self) -> int:
        """Number of networks whose weights each parameter holds one after the other; 1 except for an ensemble."""
        return len(self.generators)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with their own options. Options that are not set are those of the constructor."""
        if isinstance(param_group, dict):
            check_option_names(param_group, _OPTIONS)
            _check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)
        for param in self.param_groups[-1]["params"]:
            if param.is_complex() or is_dtensor(param):
                self.param_groups.pop()
                raise TypeError(f"UPGD takes real parameters that are not sharded, got {type(param)} of {param.dtype}")

    @not_compiled
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step on every parameter that has a gradient.

        Args:
            closure: reevaluates the model with gradients and returns the loss, which is then returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._changed_options is None:
            self._changed_options = ChangedOptions(_OPTIONS, _check_options)
        self._changed_options.check(self.param_groups)
        groups = [[p for p in group["params"] if p.grad is not None and p.numel()] for group in self.param_groups]
        for param in chain.from_iterable(groups):
            if param.grad.layout is not torch.strided:
                raise RuntimeError(f"UPGD requires dense gradients, got {param.grad.layout} for {tuple(param.shape)}")
            check_gradient(param.grad, param)
            check_state_shapes(param, self.state.get(param) or {}, _AVERAGES)
        taking_part = [(group, own) for group, own in zip(self.param_groups, groups, strict=True) if own]
        if taking_part:
            updated = [self._update_averages(group, own) for group, own in taking_part]
            corrections = [each for each, _ in updated]
            largest = self._largest([each for _, own in updated for each in own], corrections)
            for (group, own), each in zip(taking_part, corrections, strict=True):
                self._change(group, own, each, largest)
        return loss

    def _update_averages(self, group: Mapping[str, Any], params: list[Tensor]) -> tuple[list[float], list[Tensor]]:
        """Update utilities and moments -> for each parameter 1 - decay_rate^k, and each member's largest utility."""
        corrections = []
        for param in params:
            state = self.state[param]
            state["step"] = state.get("step", 0) + 1
            for key in _AVERAGES if group["betas"] is not None else _AVERAGES[:1]:
                if key not in state:
                    state[key] = torch.zeros_like(param, dtype=_wide(param), memory_format=torch.preserve_format)
            corrections.append(1.0 - group["decay_rate"] ** state["step"])
        grads, weights = _gradients(params), _widened(params)
        utilities = [self.state[p]["avg_utility"] for p in params]
        if fits_kernel(self.kernels, params, grads, utilities):
            of_members = update_utilities(utilities, grads, weights, group["decay_rate"], self.members)
            largest = list(of_members.unbind(1))
        else:
            torch._foreach_mul_(utilities, group["decay_rate"])
            torch._foreach_addcmul_(utilities, grads, weights, value=group["decay_rate"] - 1.0)
            largest = [self._by_member(each).amax(1) for each in utilities]
        if group["betas"] is not None:
            first, second = group["betas"]
            torch._foreach_lerp_([self.state[p]["exp_avg"] for p in params], grads, 1.0 - first)
            squares = [self.state[p]["exp_avg_sq"] for p in params]
            torch._foreach_mul_(squares, second)
            torch._foreach_addcmul_(squares, grads, grads, value=1.0 - second)
        return corrections, largest

    def _largest(self, utilities: list[Tensor], corrections: list[list[float]]) -> Tensor:
        """The largest corrected utility of each member, (members,), on the device of the first parameter."""
        pairs = zip(utilities, chain.from_iterable(corrections), strict=True)
        largest = [each / c for each, c in pairs]
        device, dtype = largest[0].device, max((each.dtype for each in largest), key=lambda dtype: dtype.itemsize)
        return torch.stack([each.to(device, dtype) for each in largest]).amax(0).clamp_(min=_TINY)

    def _by_member(self, values: Tensor) -> Tensor:
        return values.reshape(self.members, -1)

    def _free_shares(
        self, group: Mapping[str, Any], params: list[Tensor], corrections: list[float], largest: Tensor
    ) -> list[Tensor]:
        """1 - U of each weight."""
        utilities = [self.state[p]["avg_utility"] for p in params]
        if group["scaling"] == "local":
            shares = [self._local(each / -c) for each, c in zip(utilities, corrections, strict=True)]
        elif self.members == 1:
            shares = list(torch._foreach_div(utilities, _divisors(utilities, corrections, largest)))
        else:
            shares = [
                (self._by_member(each) / (-c * largest[:, None].to(each.device))).reshape(each.shape)
                for each, c in zip(utilities, corrections, strict=True)
            ]
        torch._foreach_sigmoid_(shares)  # 1 - sigmoid(x) = sigmoid(-x)
        return shares

    def _local(self, utility: Tensor) -> Tensor:
        members = utility if utility.ndim > 1 or self.members == 1 else self._by_member(utility)
        normalized = torch.nn.functional.normalize(members if members.ndim else members[None], dim=-1)
        return normalized.reshape(utility.shape)

    def _change(
        self, group: Mapping[str, Any], params: list[Tensor], corrections: list[float], largest: Tensor
    ) -> None:
        """Change the parameters of one group."""
        steps, utilities = self._directions(group, params), [self.state[p]["avg_utility"] for p in params]
        if group["scaling"] == "global" and fits_kernel(self.kernels, params, steps, utilities):
            own = (
                largest.to(utilities[0])[:, None]
                * torch.tensor(corrections, dtype=utilities[0].dtype, device="cpu").neg_()
            )
            change_by_kernel(group, params, steps, utilities, own, self.generators)
            return
        if self.members == 1 and group["scaling"] == "global" and fits_pieces(params, steps, utilities):
            divisors = _divisors(utilities, corrections, largest)
            change_in_pieces(group, params, steps, utilities, divisors, self.generators[0])
            return
        shares = self._free_shares(group, params, corrections, largest)
        if group["sigma"]:
            noise = self._noise(group["sigma"], params)
            if not group["protecting"]:
                torch._foreach_mul_(noise, shares)
            torch._foreach_add_(noise, steps)
            steps = noise
        if group["protecting"]:
            torch._foreach_mul_(shares, steps)
            steps = shares
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1.0 - group["lr"] * group["weight_decay"])
        narrow = [step.to(p.dtype) for step, p in zip(steps, params, strict=True)]
        torch._foreach_add_(params, narrow, alpha=-group["factor"] * group["lr"])

    def _directions(self, group: Mapping[str, Any], params: list[Tensor]) -> list[Tensor]:
        """The gradients, or Adam's steps."""
        if group["betas"] is None:
            return _gradients(params)
        steps = [self.state[p]["step"] for p in params]
        first, second = group["betas"]
        means = torch._foreach_div([self.state[p]["exp_avg"] for p in params], [1.0 - first**k for k in steps])
        roots = torch._foreach_div([self.state[p]["exp_avg_sq"] for p in params], [1.0 - second**k for k in steps])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_div_(means, roots)
        return list(means)

    def _noise(self, sigma: float, params: list[Tensor]) -> list[Tensor]:
        """Noise for all parameters, from one draw of each member's generator."""
        sizes = [p.numel() // self.members for p in params]
        dtype = max((_wide(p) for p in params), key=lambda each: each.itemsize)
        drawn = torch.empty(self.members, sum(sizes), dtype=dtype, device=self.generators[0].device)
        for row, generator in zip(drawn, self.generators, strict=True):
            row.normal_(0.0, sigma, generator=generator)
        parts = zip(torch.split(drawn, sizes, 1), params, strict=True)
        return [part.reshape(p.shape).to(p.device, _wide(p)) for part, p in parts]

    def state_dict(self) -> dict[str, Any]:
        """The state, as of any torch optimizer, with the states of the generators."""
        return {**super().state_dict(), "generators": [each.get_state() for each in self.generators]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a saved state.

        Raises:
            ValueError: not the result of `state_dict`, or of another optimizer or number of members, or damaged.
                Nothing is changed.
        """
        lacking = [name for name in ("state", "param_groups", "generators") if name not in (state_dict or ())]
        if lacking:
            got = ", ".join(state_dict) if isinstance(state_dict, dict) else type(state_dict).__name__
            raise ValueError(f"state_dict is not one of UPGD: it lacks {', '.join(map(repr, lacking))}, got {got}")
        kinds = [random_state(each) for each in self.generators]
        states = sequence(kinds, f"{len(kinds)} states of generators")(Entry("generators"), state_dict["generators"])
        check_saved_options(self, state_dict, _OPTIONS, _check_options)
        for param, saved, _ in saved_entries(self, state_dict):
            check_entries(self, param, saved, _AVERAGES[:1], ("step", *_AVERAGES[1:]))
            check_entries(self, param, saved, _AVERAGES, ("step",), required=False)
            counter()(Entry("step"), saved.get("step"))
        super().load_state_dict(state_dict)
        ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        for param, number in zip(self._params(), ids, strict=True):
            for key in _AVERAGES:  # torch rounds them to the parameter's dtype
                if key in (saved := state_dict["state"].get(number, {})):
                    self.state[param][key] = saved[key].detach().to(param.device, _wide(param), copy=True)
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "generators": self.generators, "kernels": self.kernels}

    def _params(self) -> chain[Tensor]:
        return chain.from_iterable(group["params"] for group in self.param_groups)


def _divisors(utilities: Sequence[Tensor], corrections: Sequence[float], largest: Tensor) -> list[Tensor]:
    """What the utilities of one network are divided by: minus its largest corrected utility, times their correction."""
    return [-c * largest[0].to(each.device) for each, c in zip(utilities, corrections, strict=True)]


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _widened(tensors: Sequence[Any]) -> list[Tensor]:
    return [each.to(_wide(each)) for each in tensors]


def _gradients(params: Sequence[Any]) -> list[Tensor]:
    """The gradients, in the dtype of the state."""
    return [p.grad.to(_wide(p)) for p in params]


def _check_options(options: Mapping[str, Any], *, read_devices: bool = True) -> None:
    """Raise TypeError or ValueError for options of a parameter group that are not valid."""
    for name in ("lr", "sigma", "weight_decay", "factor", "eps"):
        finite_number(name, options[name])
    if not 0.0 <= to_float(options["decay_rate"]) < 1.0:
        raise ValueError(f"decay_rate must be a number in [0, 1), got {options['decay_rate']!r}")
    check_flags(protecting=options["protecting"])
    if options["scaling"] not in ("global", "local"):
        raise ValueError(f"scaling must be 'global' or 'local', got {options['scaling']!r}")
    betas = options["betas"]
    pair = isinstance(betas, (tuple, list)) and len(betas) == 2 and all(0.0 <= to_float(each) < 1.0 for each in betas)
    if betas is not None and not pair:
        raise ValueError(f"betas must be None or two numbers in [0, 1), got {betas!r}")


register_state_reset(UPGD, dict.fromkeys(_AVERAGES, 0.0))
