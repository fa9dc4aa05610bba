"""Checks of the options of parameter groups: at construction, when a state is loaded, and in a step if they changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Rational, Real
from operator import is_, itemgetter
from typing import Any

import torch
from torch import Tensor

from gnt._utils.known_attributes import nearly_same
from gnt.replacement import ENGINE_SETTINGS

CheckOptions = Callable[..., None]

ADAM_OPTIONS = (
    "lr",
    "betas",
    "eps",
    "weight_decay",
    "amsgrad",
    "maximize",
    "decoupled_weight_decay",
    "foreach",
    "fused",
)
SGD_OPTIONS = (
    "lr",
    "momentum",
    "dampening",
    "weight_decay",
    "nesterov",
    "maximize",
    "foreach",
    "differentiable",
    "fused",
)


class ChangedOptions:
    """Checks the options of all groups in each step, but only those that are not the same objects as in the last one.

    Args:
        names: the options, the step size first.
        check: raises an error for options that are not valid; takes the options of a group.
    """

    def __init__(self, names: Sequence[str], check: CheckOptions) -> None:
        self._values_of, self._check = itemgetter(*names), check
        self._names = names
        self._checked: list[tuple[Any, ...]] = []
        self._sizes: list[int] = []

    def check(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Raise TypeError or ValueError for options that are not valid."""
        checked, sizes = self._checked, self._sizes
        if len(groups) != len(checked):
            checked, sizes = [() for _ in groups], [0 for _ in groups]
            self._checked, self._sizes = checked, sizes
        for i, group in enumerate(groups):
            if len(group) != sizes[i]:
                check_option_names(group, self._names, f"parameter group {i}")
                sizes[i] = len(group)
            try:
                values = self._values_of(group)
            except KeyError as missing:
                raise ValueError(f"parameter group {i} has no option {missing}") from None
            before = checked[i]
            if before and all(map(is_, values, before)):
                continue
            lr = values[0]
            if not (before and type(lr) is float and 0.0 <= lr < math.inf and all(map(is_, values[1:], before[1:]))):
                self._check(group, read_devices=False)  # more than the step size has changed
            checked[i] = () if any(map(can_change, values)) else values


def check_option_names(group: Mapping[str, Any], options: Sequence[str], owner: str = "a parameter group") -> None:
    """Raise ValueError for a key that is nearly an option, or a setting of an engine; schedulers and users add others.

    Args:
        group: a parameter group.
        options: the options of the optimizer.
        owner: the group, for the error.
    """
    for name in group:
        if name in options or not isinstance(name, str):
            continue
        if setting := nearly_same(name, ENGINE_SETTINGS):
            raise ValueError(
                f"{owner} has {name!r}: {setting} is a setting of the engine, for all parameter groups: pass it to "
                f"gnt.GnT or CBPSGD, CBPAdam, CBPAdamW; later assign engine.{setting} or optimizer.gnt.{setting}"
            )
        if near := nearly_same(name, options):
            raise ValueError(f"{owner} has the unknown option {name!r}; did you mean {near!r}?")


def can_change(value: Any) -> bool:
    """True for values that can be changed in place, which must be checked in every step."""
    return any(map(can_change, value)) if isinstance(value, tuple) else isinstance(value, (Tensor, list))


def check_adam_options(options: Mapping[str, Any], *, read_devices: bool = True) -> None:
    """Raise TypeError or ValueError for options of a parameter group that are not valid for Adam.

    Args:
        options: the options.
        read_devices: read tensors on accelerators, which waits for the device; otherwise their values are not checked.
    """
    betas = options.get("betas")
    _check_number("lr", options.get("lr"), read_devices, tensor=True)
    if not isinstance(betas, Sequence) or len(betas) != 2 or not all(map(_is_number_or_tensor, betas)):
        raise TypeError(f"betas must be two numbers, got {betas!r}; tensors of one element are allowed, too")
    for beta in betas:
        if not 0.0 <= _value_of(beta, read_devices, at_least=0.0) < 1.0:
            raise ValueError(f"betas must be in [0, 1), got {betas!r}")
    _check_number("eps", options.get("eps"), read_devices)
    _check_number("weight_decay", options.get("weight_decay"), read_devices)
    _check_flags(options, ("amsgrad", "maximize", "decoupled_weight_decay"), ("foreach", "fused"))
    for name, value in (("lr", options["lr"]), ("betas", betas[0]), ("betas", betas[1])):
        if isinstance(value, Tensor) and options.get("foreach"):
            raise ValueError(f"{name} as a tensor cannot be combined with foreach=True: pass a number, or omit foreach")


def check_continual_adam_options(options: Mapping[str, Any], *, read_devices: bool = True) -> None:
    """`check_adam_options` for an optimizer whose units are replaced, which needs a positive eps."""
    check_adam_options(options, read_devices=read_devices)
    if options["eps"] == 0:
        raise ValueError(
            f"eps must be greater than 0, got {options['eps']!r}: the moments of a replaced unit are 0, and without "
            "eps its first step is 0 / 0"
        )


def check_sgd_options(options: Mapping[str, Any], *, read_devices: bool = True) -> None:
    """Raise TypeError or ValueError for options of a parameter group that are not valid for SGD.

    The arguments are those of `check_adam_options`.
    """
    _check_number("lr", options.get("lr"), read_devices, tensor=True)
    _check_number("momentum", options.get("momentum"), read_devices)
    _check_number("dampening", options.get("dampening"), read_devices, minimum=-math.inf)
    _check_number("weight_decay", options.get("weight_decay"), read_devices, tensor=True)
    _check_flags(options, ("nesterov", "maximize", "differentiable"), ("foreach", "fused"))
    if options.get("nesterov") and not (options["momentum"] > 0 and options["dampening"] == 0):
        raise ValueError(
            f"nesterov=True requires momentum > 0 and dampening 0, got momentum={options['momentum']!r} and "
            f"dampening={options['dampening']!r}"
        )
    if options.get("fused") and options.get("differentiable"):
        raise ValueError("fused=True and differentiable=True cannot be combined")


def beta_values(group: Mapping[str, Any]) -> tuple[float, float]:
    """The decay rates of a group as Python floats; reads the device of tensors."""
    first, second = group["betas"]
    return float(first), float(second)


def _is_number(value: Any) -> bool:
    """True for numbers that torch's functions take; False for bools and for fractions."""
    is_fraction = isinstance(value, Rational) and not isinstance(value, Integral)
    return isinstance(value, Real) and not isinstance(value, bool) and not is_fraction


def _is_number_or_tensor(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and value.dtype is not torch.bool
    return _is_number(value)


def _value_of(value: Any, read_devices: bool, at_least: float) -> float:
    """The value as a float; ``at_least`` for a tensor that is not to be read."""
    if isinstance(value, Tensor) and (value.is_meta or not (value.is_cpu or read_devices)):
        return at_least
    return float(value.detach() if isinstance(value, Tensor) else value)


def _check_number(name: str, value: Any, read_devices: bool, *, tensor: bool = False, minimum: float = 0.0) -> None:
    if tensor and isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"{name} as a tensor must have one element, got shape {tuple(value.shape)}")
    if not (_is_number_or_tensor(value) if tensor else _is_number(value)):
        raise TypeError(f"{name} must be a number{' or a tensor of one element' if tensor else ''}, got {value!r}")
    number = _value_of(value, read_devices, at_least=0.0)
    allowed = "a finite number" if minimum == -math.inf else f"a finite number >= {minimum:g}"
    if not number >= minimum and minimum == 0.0:  # also for nan
        raise ValueError(f"{name} must not be negative, got {value!r}; allowed is {allowed}")
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}; allowed is {allowed}")


def _check_flags(options: Mapping[str, Any], flags: Sequence[str], choices: Sequence[str]) -> None:
    """Check flags, and choices of an implementation (of which None is the default)."""
    for name in flags:
        if not isinstance(options.get(name), bool):
            raise TypeError(f"{name} must be True or False, got {options.get(name)!r}")
    for name in choices:
        if options.get(name) is not None and not isinstance(options[name], bool):
            raise TypeError(f"{name} must be True, False or None, got {options[name]!r}")
    if options.get("foreach") and options.get("fused"):
        raise ValueError("foreach=True and fused=True cannot be combined")
