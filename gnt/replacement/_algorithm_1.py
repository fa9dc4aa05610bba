"""Algorithm 1 of Dohare et al. (Nature, 2024) exactly as printed: `GnT` without its later changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch.optim import Optimizer

from gnt._utils.other_names import explains_unknown_settings
from gnt._utils.renamed_argument import refused_arguments
from gnt.initialization import Init
from gnt.names import ActivationName, BiasInit
from gnt.replacement._config import EngineSettings
from gnt.replacement._protect_setting import Protect
from gnt.replacement._soft_settings import SoftReplacement
from gnt.replacement.engine import GnT
from gnt.units import Layers, UnitGroup

ALGORITHM_1: Mapping[str, Any] = MappingProxyType(
    {"utility": "uncorrected_contribution", "accumulate": "one", "bias_transfer": False}
)


@refused_arguments(ALGORITHM_1, "{} cannot be chosen here, Algorithm 1 fixes it; gnt.GnT takes any")
@explains_unknown_settings
def algorithm_1(
    layers: Layers | Iterable[UnitGroup],
    optimizer: Optimizer | None = None,
    *,
    replacement_rate: float = EngineSettings.replacement_rate,
    maturity_threshold: int = EngineSettings.maturity_threshold,
    decay_rate: float = EngineSettings.decay_rate,
    init: Init = EngineSettings.init,
    generator: torch.Generator | None = None,
    activation: ActivationName | None = None,
    record: bool = True,
    process_group: Any = None,
    kernels: bool | None = EngineSettings.kernels,
    bias_init: BiasInit = EngineSettings.bias_init,
    follow: Sequence[Any] = (),
    protect: Protect = None,
    grad_scaler: torch.amp.GradScaler | None = None,
    measure_every: int = EngineSettings.measure_every,
    soft: SoftReplacement | bool | None = EngineSettings.soft,
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
        layers, optimizer, replacement_rate, maturity_threshold, decay_rate, init, generator, activation, record,
        process_group, kernels, bias_init, follow, protect, grad_scaler, measure_every, soft: same as for `GnT`.

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
    return GnT(
        layers,
        optimizer,
        replacement_rate=replacement_rate,
        maturity_threshold=maturity_threshold,
        decay_rate=decay_rate,
        init=init,
        generator=generator,
        activation=activation,
        record=record,
        process_group=process_group,
        kernels=kernels,
        bias_init=bias_init,
        follow=follow,
        protect=protect,
        grad_scaler=grad_scaler,
        measure_every=measure_every,
        soft=soft,
        **ALGORITHM_1,
    )
