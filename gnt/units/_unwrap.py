"""Wrappers around a model: what is inside them is the model that the user built."""

from __future__ import annotations

import torch
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile``, DistributedDataParallel and DataParallel, however often wrapped.

    >>> import torch, gnt
    >>> net = torch.nn.Linear(2, 2)
    >>> gnt.units.unwrap(torch.compile(net, backend="eager")) is net
    True
    """
    while not isinstance(model, torch.jit.ScriptModule):  # whose children are in no dict
        # torch.compile's OptimizedModule forwards attributes to its inside, so only its own children are asked
        inner = model._modules.get("_orig_mod")
        if inner is None and isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model._modules.get("module")
        if inner is None:
            return model
        model = inner
    return model
