"""CBPLinear and CBPConv: continual backpropagation as layers inside a network.

Each layer is the identity, placed after the activation of ``in_layer``. It records the features that pass, and after
each step of the optimizer that has ``in_layer``'s weight it updates, selects and replaces units with an engine of its
own. Nothing happens during the backward.

_cbp_layer      what the two have in common: construction, forward, copies, `CBPLayer.rebind`
_layer_steps    the layers of each optimizer, and hooks around its step: all are evaluated before any unit is replaced
_layer_use      the check that the network still runs the layers around a CBP layer
"""

from __future__ import annotations

from torch import nn

from gnt.replacement._cbp_layer import CBPLayer
from gnt.units import CONV_LAYERS

__all__ = ["CBPConv", "CBPLayer", "CBPLinear"]


class CBPLinear(CBPLayer):
    """Continual backpropagation for the units between two linear layers; put it after the activation of ``in_layer``.

    Args:
        in_layer: the ``nn.Linear`` whose output features are the units.
        out_layer: the ``nn.Linear`` that reads them.
        norms: norm or norms between the two, whose per-unit parts are reset too.
        activation: name of the activation, for the gain of new weights.
        replacement_rate, maturity_threshold, decay_rate, utility, init, accumulate, bias_transfer, generator,
        process_group, kernels, bias_init, protect, grad_scaler, measure_every, soft: as for `GnT`. They may be changed
            later, as attributes of ``layer.engine``.

    The layer acts after ``optimizer.step()`` of the optimizer that has ``in_layer.weight``, and resets its state. It
    changes nothing in eval mode, without grad, or after a step without a forward before it. Other objects that keep
    numbers per weight take part in replacements after ``layer.engine.follow(obj)`` (`GnT.follow`).

    If ``in_layer``, a norm or ``out_layer`` was replaced in the network, the next step of the optimizer raises
    RuntimeError before anything changes. `rebind` goes on with the new layer.

    The layer's state is saved in the network's state_dict. A damaged state is refused by name and does not change this
    layer; as torch loads a network module by module, other modules may have been loaded before.

    Raises:
        TypeError: layers of other types, or an optimizer whose state cannot be reset per unit (at its first step).
        ValueError: sizes that do not match, or settings outside their range.

    >>> import torch, gnt
    >>> from torch import nn
    >>> fc1, fc2 = nn.Linear(4, 16), nn.Linear(16, 1)
    >>> net = nn.Sequential(fc1, nn.ReLU(), gnt.CBPLinear(fc1, fc2, replacement_rate=0.1, maturity_threshold=2), fc2)
    >>> optimizer = torch.optim.Adam(net.parameters())
    >>> for _ in range(5):
    ...     optimizer.zero_grad()
    ...     net(torch.randn(8, 4)).square().mean().backward()
    ...     optimizer.step()
    >>> net[2].group.state.replaced
    4
    """

    _producers = (nn.Linear,)
    _consumers = (nn.Linear,)


class CBPConv(CBPLayer):
    """Continual backpropagation for the channels of a convolution; put it after the activation (and pooling) of
    ``in_layer``.

    Args:
        in_layer: the ``nn.Conv1d``, ``Conv2d`` or ``Conv3d`` whose output channels are the units.
        out_layer: the convolution of the same kind, or the ``nn.Linear``, that reads them. For a linear layer each
            channel owns its block of columns; the CBP layer may be before or after the flatten.
        norms, activation, and the settings of `GnT`: see `CBPLinear`.

    >>> import torch, gnt
    >>> from torch import nn
    >>> conv, fc = nn.Conv2d(1, 6, 3), nn.Linear(54, 2)
    >>> net = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2), gnt.CBPConv(conv, fc), nn.Flatten(), fc)
    >>> net(torch.randn(2, 1, 8, 8)).shape
    torch.Size([2, 2])
    """

    _producers = CONV_LAYERS
    _consumers = (*CONV_LAYERS, nn.Linear)
