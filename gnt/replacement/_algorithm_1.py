"""Algorithm 1 of Dohare et al. (Nature, 2024) exactly as printed: `GnT` without its later changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch.optim import Optimizer

from gnt._utils.validation import check_known_settings
from gnt.initialization import Init
from gnt.replacement._config import ENGINE_SETTINGS, EngineSettings
from gnt.replacement.engine import GnT
from gnt.units import Layers, UnitGroup

ALGORITHM_1: Mapping[str, Any] = MappingProxyType(
    {"utility": "uncorrected_contribution", "accumulate": "one", "bias_transfer": False}
)


def algorithm_1(
    layers: Layers | Iterable[UnitGroup],
    optimizer: Optimizer | None = None,
    *,
    replacement_rate: float = EngineSettings.replacement_rate,
    maturity_threshold: int = EngineSettings.maturity_threshold,
    decay_rate: float = EngineSettings.decay_rate,
    init: Init = EngineSettings.init,
    generator: torch.Generator | None = None,
    **settings: Any,
) -> GnT:
    """Return a `GnT` engine that follows Algorithm 1 of Dohare et al. (Nature, 2024) exactly as printed.

    After the optimizer's step, for each layer l, with decay rate eta, replacement rate rho and maturity threshold m::

        a_l += 1                                                        ages
        u_l,i = eta u_l,i + (1 - eta) |h_l,i| sum_k |w_l,i,k|           |h|: its mean over the batch
        c_l += rho * (number of units with a_l,i > m)
        if c_l > 1:
            r = the eligible unit with the lowest u
            incoming weights of r from the initial distribution, outgoing weights 0, u_l,r = 0, a_l,r = 0
            c_l -= 1

    Unlike with the defaults of `GnT`, the utility is corrected neither for age nor for the mean feature, it is a sum
    over outgoing weights instead of a mean, nothing is moved into the consumers' biases, and each layer replaces at
    most one unit in a step. These settings are `ALGORITHM_1`, which other classes accept too: ``CBPSGD(net,
    **gnt.ALGORITHM_1)``, ``gnt.Ensemble(make_net, seeds, **gnt.ALGORITHM_1)``.

    In addition to the printed algorithm, the optimizer's state of replaced slices is reset (plain SGD has none), and
    the bias of a replaced unit becomes 0, as in the authors' code. If c_l exceeds 1 while no unit is eligible, it keeps
    its value until one is.

    Args:
        layers, optimizer, replacement_rate, maturity_threshold, decay_rate, init, generator: same as for `GnT`.
        settings: further settings of `GnT`: activation, record, process_group, kernels, bias_init, protect,
            grad_scaler.

    Raises:
        TypeError: a setting that the algorithm fixes (utility, accumulate, bias_transfer), or an unknown setting.
        ValueError: same as for `GnT`.

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
