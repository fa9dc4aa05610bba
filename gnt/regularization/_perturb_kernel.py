"""Shrink and perturb by a C kernel: one pass over memory, which draws the noise too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from gnt._kernels import SCALARS, is_readable, load, member_layout, noise_keys, use_kernels


def fits_kernel(setting: bool | None, params: Sequence[Tensor]) -> bool:
    """Whether the kernel can change these parameters, and is to be used.

    Args:
        setting: the setting ``kernels``.
        params: the parameters.
    """
    dtype = params[0].dtype
    fit = dtype in SCALARS and all(type(p) in (Tensor, nn.Parameter) and is_readable(p, dtype) for p in params)
    return use_kernels(setting, fit=fit)


def perturb(params: Sequence[Tensor], shrink: float, noise: float, generators: Sequence[torch.Generator]) -> None:
    """Change parameters: p <- shrink p + noise n, with standard normal n.

    The noise is a function of a number that is drawn from the member's generator, the parameter's position in
    ``params`` and the weight's in the parameter: see ``random_normal.h``. Frozen parameters are left unchanged, which
    does not change the noise of the others.

    Args:
        params: the parameters.
        shrink, noise: factors.
        generators: generators of the noise, one for each network whose weights a parameter holds.
    """
    numbered = [(number, p) for number, p in enumerate(params) if p.requires_grad and p.numel()]
    changed = [p for _, p in numbered]
    streams = [(key, number) for key in noise_keys(generators) for number, _ in numbered]
    if not changed:
        return
    layout = member_layout((changed,), len(generators), streams)
    load("perturb", changed[0].dtype)(layout.buffer_info()[0], len(streams), shrink, noise, torch.get_num_threads())
    increment_version(changed)
