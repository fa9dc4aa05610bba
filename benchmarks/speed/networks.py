"""The networks and data of the workloads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..methods import with_seed
from ..seeds import stream
from .workloads import CONVNET, GPT, RESNET, TRACED, Workload

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": F.mse_loss, "cross_entropy": F.cross_entropy}
POOL = 16  # number of different batches, which are repeated


def make_net(workload: Workload) -> nn.Sequential:
    """The workload's network, with the same weights for every variant."""
    net: nn.Sequential = with_seed(0, lambda: fresh_net(workload.net))
    return net.to(workload.device)


def fresh_net(sizes: tuple[int, ...] | str) -> nn.Sequential:
    """A ReLU network with layers of these sizes, or the named one, with torch's default initial weights."""
    if sizes == CONVNET:
        return _convnet()
    if sizes in TRACED:
        from .traced_networks import gpt_blocks, resnet18

        return gpt_blocks() if sizes == GPT else resnet18()
    assert not isinstance(sizes, str)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _convnet() -> nn.Sequential:
    """The network of the authors' Continual ImageNet: 3x32x32, convolutions 32(5)-64(3)-128(3) with pooling,
    128-128-2.
    """
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        *(nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2)),
    )


def batches(workload: Workload, lead: tuple[int, ...] = ()) -> Iterator[tuple[Tensor, Tensor]]:
    """An endless sequence of batches: normal inputs, and targets that are independent of them.

    So nothing can be learned perfectly: gradients keep their size, and no moments decay into denormal numbers, which
    are slow. ``lead``: dimensions before the batch dimension, for an ensemble.
    """
    generator = stream(0, "speed")
    images: dict[tuple[int, ...] | str, int] = {CONVNET: 2, RESNET: 10}
    if workload.net == GPT:
        sample: tuple[int, ...] = (512, 256)
        shape: tuple[int, ...] = sample
    else:
        sample = (3, 32, 32) if workload.net in images else (int(workload.net[0]),)
        shape = (images.get(workload.net) or int(workload.net[-1]),)
    pool = []
    for _ in range(POOL):
        x = torch.randn(*lead, workload.batch, *sample, generator=generator)
        if workload.loss == "mse":
            y = torch.randn(*lead, workload.batch, *shape, generator=generator)
        else:
            y = torch.randint(shape[0], (*lead, workload.batch), generator=generator)
        pool.append((x.to(workload.device), y.to(workload.device)))
    return itertools.cycle(pool)
