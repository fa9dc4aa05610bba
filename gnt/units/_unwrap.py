"""`unwrap`: the model inside wrappers such as those of torch.compile, DistributedDataParallel and Fabric."""

from __future__ import annotations

import torch
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside wrappers, nested to any depth.

    Wrappers are those of ``torch.compile``, DistributedDataParallel, DataParallel and ``Fabric.setup`` of Lightning.

    >>> import torch, gnt
    >>> net = torch.nn.Linear(2, 2)
    >>> gnt.units.unwrap(torch.compile(net, backend="eager")) is net
    True
    """
    while not isinstance(model, torch.jit.ScriptModule):  # has no dict of child modules
        # OptimizedModule of torch.compile forwards attribute access to the inner module, so look at its own children
        inner = model._modules.get("_orig_mod")
        if inner is None and {"_forward_module", "_original_module"} <= model._modules.keys():  # Lightning Fabric
            inner = model._modules["_original_module"]
        if inner is None and isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model._modules.get("module")
        if inner is None:
            return model
        model = inner
    return model
