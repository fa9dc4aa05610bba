"""CBPLinear and CBPConv with the arguments and defaults of the loss-of-plasticity repository."""

from __future__ import annotations

from torch import nn

import gnt
from gnt.names import ActivationName, InitName, Utility


def _norms(*layers: nn.Module | None) -> list[nn.Module]:
    return [layer for layer in layers if layer is not None]


class CBPLinear(gnt.CBPLinear):
    """`gnt.CBPLinear` with the arguments and defaults of ``lop.algos.cbp_linear.CBPLinear``.

    Args:
        in_layer, out_layer: the linear layers around the units.
        ln_layer, bn_layer: norms between the two (``norms`` of `gnt.CBPLinear`).
        replacement_rate, maturity_threshold, init, decay_rate: as for `gnt.GnT`.
        act_type: the activation (``activation`` of `gnt.CBPLinear`).
        util_type: the measure of utility; the published code always takes "contribution".
        bias_transfer: as for `gnt.GnT`; the published layer transfers nothing.

    >>> from torch import nn
    >>> from gnt.integrations.loss_of_plasticity import CBPLinear
    >>> fc1, fc2 = nn.Linear(4, 16), nn.Linear(16, 2)
    >>> net = nn.Sequential(fc1, nn.ReLU(), CBPLinear(in_layer=fc1, out_layer=fc2, act_type="relu"), fc2)
    """

    def __init__(
        self,
        in_layer: nn.Module,
        out_layer: nn.Module,
        ln_layer: nn.Module | None = None,
        bn_layer: nn.Module | None = None,
        replacement_rate: float = 1e-4,
        maturity_threshold: int = 100,
        init: InitName = "kaiming",
        act_type: ActivationName = "relu",
        util_type: Utility = "contribution",
        decay_rate: float = 0,
        bias_transfer: bool = False,
    ) -> None:
        super().__init__(
            in_layer,
            out_layer,
            norms=_norms(bn_layer, ln_layer),
            activation=act_type,
            replacement_rate=replacement_rate,
            maturity_threshold=maturity_threshold,
            init=init,
            utility=util_type,
            decay_rate=decay_rate,
            bias_transfer=bias_transfer,
        )


class CBPConv(gnt.CBPConv):
    """`gnt.CBPConv` with the arguments and defaults of ``lop.algos.cbp_conv.CBPConv``; see CBPLinear.

    Args:
        num_last_filter_outputs: inputs of a linear ``out_layer`` for each channel. gnt finds the number; another one
            is refused.

    >>> from torch import nn
    >>> from gnt.integrations.loss_of_plasticity import CBPConv
    >>> conv, fc = nn.Conv2d(1, 6, 3), nn.Linear(54, 2)
    >>> layer = CBPConv(conv, fc, num_last_filter_outputs=9)
    """

    def __init__(
        self,
        in_layer: nn.Module,
        out_layer: nn.Module,
        ln_layer: nn.Module | None = None,
        bn_layer: nn.Module | None = None,
        num_last_filter_outputs: int = 1,
        replacement_rate: float = 1e-5,
        maturity_threshold: int = 1000,
        init: InitName = "kaiming",
        act_type: ActivationName = "relu",
        util_type: Utility = "contribution",
        decay_rate: float = 0,
        bias_transfer: bool = False,
    ) -> None:
        if isinstance(out_layer, nn.Linear) and isinstance(channels := getattr(in_layer, "out_channels", None), int):
            found = out_layer.in_features / channels
            if num_last_filter_outputs != found:
                raise ValueError(
                    f"num_last_filter_outputs must be {found:g} ({out_layer.in_features} inputs of out_layer for "
                    f"{channels} channels), got {num_last_filter_outputs!r}"
                )
        super().__init__(
            in_layer,
            out_layer,
            norms=_norms(bn_layer, ln_layer),
            activation=act_type,
            replacement_rate=replacement_rate,
            maturity_threshold=maturity_threshold,
            init=init,
            utility=util_type,
            decay_rate=decay_rate,
            bias_transfer=bias_transfer,
        )
