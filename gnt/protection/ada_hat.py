"""AdaHAT: adaptive hard attention to the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gnt._utils.other_names import explains_unknown_settings
from gnt._utils.renamed_argument import refused_arguments, renamed_argument
from gnt.names import Compensation, Form, Norms, SparsityMode, Uncovered, Variant
from gnt.protection._hat_settings import EmbeddingInit
from gnt.protection._rates import Adaptive
from gnt.protection.hat import HAT
from gnt.units import UnitGroup


class AdaHAT(HAT):
    """`HAT` that never runs out of capacity: weights of used units also change, by less the more tasks use the units.

        rate = alpha / ((R_l + epsilon) M_ij + alpha)

    M_ij is the smaller of the numbers of earlier tasks that use the weight's two units, R_l the sparsity term of its
    layer in this step. Where no task uses one of the units the rate is 1. The outputs of earlier tasks move.

    With ``apply="update"`` the rate multiplies the change that the optimizer makes, so that it means the same for any
    optimizer: start with an alpha of 0.4, the best of 0.025 to 1.6 in one experiment (docs/masks.md), and search by
    factors of 4. With ``apply="gradient"``, as published, it multiplies the gradient, and the authors' alpha is 1e-6:
    Adam does not depend on the scale of gradients, so that a rate acts only as far as the gradient falls below Adam's
    eps.

    Args:
        net: the network.
        groups: its units, of `gnt.trace` or `gnt.walk`.
        alpha: > 0; the larger, the more the weights of used units change.
        epsilon: > 0.
        variant: "adahat"; "no_sum": the number of earlier tasks in place of M_ij, for all weights; "no_reg": R_l is 0.
        sparsity: factor of the sparsity term, >= 0.
        s_max, sparsity_mode, embedding, embedding_clamp, compensation, gradient_clip, apply, uncovered, norms,
        min_free, idle, protect_above, generator, process_group: as for `HAT`.

    Raises:
        TypeError, ValueError: as `HAT`.

    Source: Wang et al., ECML-PKDD 2024.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> hat = gnt.AdaHAT(net, gnt.walk(net), alpha=0.4)
    >>> optimizer = torch.optim.Adam(net.parameters())
    >>> hat.begin("first", optimizer, steps_per_epoch=10)
    >>> hat.capacity()
    1.0
    """

    @refused_arguments(["protection"], "AdaHAT takes alpha, epsilon and variant in place of protection")
    @renamed_argument("model", "net")
    @explains_unknown_settings
    def __init__(
        self,
        net: nn.Module,
        groups: Sequence[UnitGroup],
        *,
        alpha: float,
        epsilon: float = 0.1,
        variant: Variant = "adahat",
        s_max: float = 400.0,
        sparsity: float = 0.1,
        sparsity_mode: SparsityMode = "original",
        embedding: EmbeddingInit = "normal",
        embedding_clamp: float = 6.0,
        compensation: Compensation = "published",
        gradient_clip: float = 50.0,
        apply: Form = "update",
        uncovered: Uncovered = "freeze",
        norms: Norms = "per_task",
        min_free: int = 0,
        idle: bool = False,
        protect_above: int = 0,
        generator: torch.Generator | None = None,
        process_group: Any = None,
    ) -> None:
        super().__init__(
            net,
            groups,
            s_max=s_max,
            sparsity=sparsity,
            sparsity_mode=sparsity_mode,
            embedding=embedding,
            embedding_clamp=embedding_clamp,
            compensation=compensation,
            gradient_clip=gradient_clip,
            protection=Adaptive(alpha, epsilon, variant),
            apply=apply,
            uncovered=uncovered,
            norms=norms,
            min_free=min_free,
            idle=idle,
            protect_above=protect_above,
            generator=generator,
            process_group=process_group,
        )
