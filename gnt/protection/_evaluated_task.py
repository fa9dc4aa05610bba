"""`EvaluatedTask`: a network with the weights of one task and of those before it, as long as a ``with`` block runs."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from gnt.protection._packed_network import PackedNetwork


class EvaluatedTask(contextlib.AbstractContextManager[None]):
    """What `PackNet.use` returns; warns if no ``with`` has used it.

    Args:
        net: the network.
        network: its parameters with their owners.
        number: number of the task.
    """

    def __init__(self, net: nn.Module, network: PackedNetwork, number: int) -> None:
        self._net, self._network, self._number = net, network, number
        self._before: list[tuple[Tensor, Tensor]] = []  # weights and their values
        self._modes: list[tuple[nn.Module, bool]] = []
        self._entered = False

    @torch.no_grad()
    def __enter__(self) -> None:
        self._entered = True
        self._network.check_current()
        prunable = self._network.prunable
        self._modes = [(module, module.training) for module in self._net.modules()]
        self._before = [(each.tensor, each.tensor.detach().clone()) for each in prunable]
        self._net.eval()
        for each in prunable:
            each.follow_tensor()
            each.tensor.masked_fill_((each.owner == 0) | (each.owner > self._number), 0.0)

    @torch.no_grad()
    def __exit__(self, *error: Any) -> None:
        for tensor, values in self._before:
            tensor.copy_(values)
        for module, mode in self._modes:
            module.training = mode

    def __del__(self) -> None:
        if not self._entered:
            warnings.warn("PackNet.use() does nothing by itself: write 'with packnet.use(task):'", stacklevel=2)
