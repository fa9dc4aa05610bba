"""The step of `UPGD` by C kernels: one pass for the utilities and their maximum, one for noise and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from gnt._kernels import SCALARS, is_readable, load, member_layout, noise_keys, use_kernels

_CHUNK = 4096  # as in upgd_utility.c


def fits_kernel(setting: bool | None, *lists: Sequence[Tensor]) -> bool:
    """Whether the kernels can read tensors, and are to be used.

    Args:
        setting: the setting ``kernels``.
        lists: parameters, gradients and averages.
    """
    dtype = lists[0][0].dtype
    plain = (Tensor, nn.Parameter)
    fit = dtype in SCALARS and all(type(each) in plain and is_readable(each, dtype) for own in lists for each in own)
    return use_kernels(setting, fit=fit)


def update_utilities(
    utilities: Sequence[Tensor], grads: Sequence[Tensor], params: Sequence[Tensor], decay: float, members: int
) -> Tensor:
    """Update utilities: u <- decay u - (1 - decay) g w.

    Args:
        utilities, grads, params: of several parameters.
        decay: the decay rate.
        members: number of networks whose weights each parameter holds one after the other.

    Returns:
        The largest of each member and parameter, (members, parameters); NaN if one of them is.
    """
    first = utilities[0]
    layout = member_layout((utilities, grads, params), members)
    largest = first.new_empty(members, len(utilities))
    scratch = first.new_empty(max(-(-each.numel() // _CHUNK) for each in utilities))
    load("upgd_utility", first.dtype)(
        layout.buffer_info()[0], largest.numel(), decay, largest.data_ptr(), scratch.data_ptr(), torch.get_num_threads()
    )
    increment_version(utilities)
    return largest


def change_by_kernel(
    options: Mapping[str, Any],
    params: Sequence[Tensor],
    directions: Sequence[Tensor],
    utilities: Sequence[Tensor],
    divisors: Tensor,
    generators: Sequence[torch.Generator],
) -> None:
    """Change parameters.

    The noise is a function of a number that is drawn from the member's generator, the parameter's position in
    ``params`` and the weight's in the parameter: see ``random_normal.h``.

    Args:
        options: those of the parameter group.
        params: the parameters.
        directions: their gradients, or Adam's steps.
        utilities: their utilities.
        divisors: (members, parameters), what utilities are divided by: 1 - U = sigmoid(utility / divisor).
        generators: generators of the noise, one for each member.
    """
    keys = noise_keys(generators) if options["sigma"] else [0] * len(generators)
    noise = [(key, number) for key in keys for number in range(len(params))]
    layout = member_layout((params, directions, utilities), len(generators), noise)
    load("upgd_step", params[0].dtype)(
        layout.buffer_info()[0], divisors.numel(), divisors.data_ptr(), options["sigma"],
        1.0 - options["lr"] * options["weight_decay"], -options["factor"] * options["lr"], int(options["protecting"]),
        torch.get_num_threads(),
    )  # fmt: skip
    increment_version(params)
