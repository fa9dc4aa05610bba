"""AdaHAT: adaptive hard attention to the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from gnt._utils.renamed_argument import renamed_argument
from gnt.protection._rates import Adaptive, Variant
from gnt.protection.hat import HAT
from gnt.units import UnitGroup


class AdaHAT(HAT):
    """`HAT` that never runs out of capacity: weights of used units also change, by less the more tasks use the units.

        rate = alpha / ((R_l + epsilon) M_ij + alpha)

    M_ij is the smaller of the numbers of earlier tasks that use the weight's two units, R_l the sparsity term of its
    layer in this step. Where no task uses one of the units the rate is 1. The outputs of earlier tasks move.

    With ``apply="update"`` the rate multiplies the change that the optimizer makes, and alpha of 0.01 to 0.1 works for
    any optimizer. With ``apply="gradient"``, as published, it multiplies the gradient, and alpha is 1e-6: Adam does not
    depend on the scale of gradients, so that a rate acts only as far as the gradient falls below Adam's eps.

    Args:
        net: the network.
        groups: its units, of `gnt.trace` or `gnt.walk`.
        alpha: > 0.
        epsilon: > 0.
        variant: "adahat"; "no_sum": the number of earlier tasks in place of M_ij, for all weights; "no_reg": R_l is 0.
        sparsity: factor of the sparsity term, >= 0.
        settings: those of `HAT`, except ``protection``.

    Raises:
        TypeError, ValueError: as `HAT`.

    Source: Wang et al., ECML-PKDD 2024.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> hat = gnt.AdaHAT(net, gnt.walk(net), alpha=0.1)
    >>> optimizer = torch.optim.Adam(net.parameters())
    >>> hat.begin("first", optimizer, steps_per_epoch=10)
    >>> hat.capacity()
    1.0
    """

    @renamed_argument("model", "net")
    def __init__(
        self,
        net: nn.Module,
        groups: Sequence[UnitGroup],
        *,
        alpha: float,
        epsilon: float = 0.1,
        variant: Variant = "adahat",
        sparsity: float = 0.1,
        **settings: Any,
    ) -> None:
        if "protection" in settings:
            raise TypeError("AdaHAT takes alpha, epsilon and variant in place of protection")
        super().__init__(net, groups, protection=Adaptive(alpha, epsilon, variant), sparsity=sparsity, **settings)
