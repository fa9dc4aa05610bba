"""Algorithm 1 of the Nature paper, exactly as printed: the engine, with all that later came to it switched off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch.optim import Optimizer

from gnt._utils.validation import check_known_settings
from gnt.replacement.engine import ENGINE_SETTINGS, GnT
from gnt.units import Layers, UnitGroup

ALGORITHM_1: Mapping[str, Any] = MappingProxyType(
    {"utility": "uncorrected_contribution", "accumulate": "one", "bias_transfer": False}
)


def algorithm_1(
    layers: Layers | Iterable[UnitGroup],
    optimizer: Optimizer | None = None,
    *,
    replacement_rate: float = 1e-4,
    maturity_threshold: int = 100,
    decay_rate: float = 0.99,
    init: str = "kaiming",
    generator: torch.Generator | None = None,
    **settings: Any,
) -> GnT:
    """Continual backpropagation exactly as Algorithm 1 of the Nature paper prints it: a `GnT` set up for that.

    After the optimizer's step, for each layer l, with eta the decay rate, rho the replacement rate and m the maturity
    threshold::

        a_l += 1                                                        ages
        u_l,i = eta u_l,i + (1 - eta) |h_l,i| sum_k |w_l,i,k|           |h|: its mean over the batch
        c_l += rho * (number of units with a_l,i > m)
        if c_l > 1:
            r = the eligible unit of least u
            incoming weights of r from the initial distribution, outgoing weights 0, u_l,r = 0, a_l,r = 0
            c_l -= 1

    So the utility is corrected neither for age nor for the mean, sums stand where `GnT` takes means, nothing is moved
    into the consumers' bias, and a layer replaces one unit in a step and no more. The settings that make it so are
    `ALGORITHM_1`, which all ways in take: ``CBPSGD(net, **gnt.ALGORITHM_1)``, ``gnt.Ensemble(make_net, seeds,
    **gnt.ALGORITHM_1)``.

    Beside the algorithm, the optimizer's state of replaced slices is reset (plain SGD has none), and a replaced unit's
    bias becomes 0, as in the authors' code. Where c_l exceeds 1 and nobody is eligible, it waits.

    Args:
        layers, optimizer, replacement_rate, maturity_threshold, decay_rate, init, generator: as of `GnT`.
        settings: further ones of `GnT`: activation, record, process_group, kernels.

    Raises:
        TypeError: a setting that the algorithm fixes (utility, accumulate, bias_transfer), or an unknown one.
        ValueError: as of `GnT`.

    Source: Dohare et al., Nature 632, 768-774 (2024), Algorithm 1 and Eq. 1.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    >>> engine = gnt.algorithm_1(net, optimizer, replacement_rate=0.01, maturity_threshold=5)
    >>> for _ in range(20):
    ...     optimizer.zero_grad()
    ...     net(torch.randn(8, 4)).square().mean().backward()
    ...     optimizer.step()
    ...     replaced = engine.step()
    >>> engine.groups[0].state.replaced
    2
    """
    fixed = [name for name in ALGORITHM_1 if name in settings]
    if fixed:
        raise TypeError(f"{', '.join(fixed)} cannot be chosen here, Algorithm 1 fixes it; gnt.GnT takes any")
    allowed = [name for name in (*ENGINE_SETTINGS, "record") if name not in ALGORITHM_1]
    check_known_settings(settings, "algorithm_1", allowed)
    return GnT(
        layers,
        optimizer,
        replacement_rate=replacement_rate,
        maturity_threshold=maturity_threshold,
        decay_rate=decay_rate,
        init=init,
        generator=generator,
        **ALGORITHM_1,
        **settings,
    )
