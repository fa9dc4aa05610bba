"""An engine step causes no device synchronization, with and without replacements.

A dispatch mode fails on operations that would synchronize. On the CPU the engine checks on the host whether features
are finite; that check is switched off here, as on other devices.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

import gnt
from tests.helpers.measures import COVERING_MEASURES
from tests.helpers.small_runs import conv_net, mlp

HOST_READS = {
    "_local_scalar_dense",
    "nonzero",
    "is_nonzero",
    "equal",
    "masked_select",
    "_unique2",
    "unique_dim",
    "item",
}


class NoSynchronization(TorchDispatchMode):
    """Fails on operations that read values on the host, and on blocking copies between devices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        assert name not in HOST_READS, f"{name} waits for the device"
        result = func(*args, **kwargs)
        if name in {"copy_", "_to_copy"}:
            target, source = (args[0], args[1]) if name == "copy_" else (result, args[0])
            blocking = not kwargs.get("non_blocking", len(args) > 2 and args[2])
            assert target.device == source.device or not blocking, f"{name} from {source.device} blocks"
        return result


def backward(net: nn.Module, *shape: int) -> None:
    net(torch.randn(3, *shape)).square().mean().backward()


@pytest.mark.parametrize("utility", COVERING_MEASURES)
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize(("make", "shape"), [(lambda: mlp(4, 8, 6, 2), (4,)), (conv_net, (1, 8, 8))])
def test_engine_steps_do_not_synchronize(utility: str, kind: type, make: Any, shape: tuple[int, ...]) -> None:
    net = make()
    optimizer = kind(net.parameters(), lr=1e-3)
    followers = [gnt.L2Init(net, 0.1), AveragedModel(net)]
    settings: Any = {"replacement_rate": 0.1, "maturity_threshold": 2, "follow": followers}
    engine = gnt.GnT(
        net, optimizer, utility=utility, kernels=False, **settings
    )  # kernels for the CPU read values of units
    (part,) = engine.importance.evaluator.parts
    part.on_cpu = False
    engine.replace([[0] for _ in engine.groups])  # the first replacement rounds the bounds on the host
    counts = []
    for _ in range(20):
        backward(net, *shape)
        optimizer.step()
        with NoSynchronization():
            replaced = engine.step()
        counts.append(sum(len(units) for units in replaced))
    assert 0 in counts
    assert sum(counts) > 3
