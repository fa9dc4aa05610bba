"""A network wrapped in DataParallel on the CPU, on any machine."""

import pytest
import torch
from torch import nn


def data_parallel(net: nn.Module) -> nn.DataParallel:
    """Wrap a network; `torch.nn.DataParallel` would move it to a GPU if there is one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        return nn.DataParallel(net)
