"""The workloads: network, batch, and the target ratio for each kind of variant.

Does not import torch, so that invalid command lines are reported at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gnt.names import LossName

CONVNET, GPT, RESNET = "convnet", "gpt", "resnet18"
TRACED = (GPT, RESNET)  # their units are found by gnt.trace

LOOP = "loop"  # full training steps
STEP = "optimizer"  # the optimizer's step alone
MANY = "ensemble"  # many networks
MASKS = "masks"  # training steps with task masks
GPU = "gpu"  # full training steps on a GPU, one by one and as a captured graph


@dataclass(frozen=True)
class Workload:
    """A network and its data.

    Attributes:
        name: as printed, and as matched by ``--only``.
        net: sizes of the layers of a ReLU network, ``CONVNET``, ``GPT`` or ``RESNET``.
        batch: samples per step.
        loss: "mse" or "cross_entropy".
        targets: name of a target (see `variants.Variant.against`) -> target ratio.
        kind: what is timed; selects the variants.
        brief: whether only the main variants are timed.
        graphs: whether variants that compile the whole network are timed, which is useful for short steps.
        long: whether it is left out of ``--quick`` unless it is selected.
        maturity: maturity threshold; the warm-up is longer than this.
        members: number of networks, for ensembles.
        picture: the panel it is drawn in, "width" or "batch".
        device: where network and data are, "cpu" or "cuda".
    """

    name: str
    net: tuple[int, ...] | str
    batch: int
    loss: LossName = "cross_entropy"
    targets: Mapping[str, float] = field(default_factory=dict)
    kind: str = LOOP
    brief: bool = False
    graphs: bool = False
    long: bool = False
    maturity: int = 100
    members: int = 1
    picture: str | None = None
    device: str = "cpu"

    @property
    def width(self) -> int | None:
        """Number of units in the first hidden layer."""
        return None if isinstance(self.net, str) else self.net[1]


PAPER = (784, 2000, 2000, 2000, 10)
RL = (64, 256, 256, 256, 8)
TINY = (20, 5, 1)
ADAHAT = (784, 256, 100, 64, 10)  # of the paper on AdaHAT


def _paper(batch: int, sgd: float, adam: float) -> Workload:
    targets = {"sgd": sgd, "adam": adam}
    return Workload(f"784-2000x3-10, batch {batch}", PAPER, batch, targets=targets, picture="batch")


def _rl(batch: int) -> Workload:
    targets = {"sgd": 1.08, "adam": 1.08}
    return Workload(f"64-256x3-8, batch {batch}", RL, batch, "mse", targets=targets, graphs=True)


def _wide(width: int) -> Workload:
    return Workload(
        f"784-{width}x2-10, batch 64",
        (784, width, width, 10),
        64,
        targets={"sgd": 1.05, "adam": 1.05},
        brief=True,
        long=width > 4096,
        # the cost of a step does not depend on the maturity threshold, and 100 of these steps take a minute
        maturity=100 if width < 2048 else 10,
        picture="width",
    )


def _traced(name: str, net: str, batch: int, loss: LossName) -> Workload:
    targets = {"sgd": 1.02, "adam": 1.02}
    return Workload(name, net, batch, loss, targets=targets, brief=True, maturity=10)


def _masks(name: str, net: tuple[int, ...] | str, batch: int, *, hat: float, ada_hat: float) -> Workload:
    targets = {"first task": 1.10, "HAT": hat, "AdaHAT": ada_hat, "FG-AdaHAT": 1.10, "FG-AdaHAT, attribution": 1.30}
    return Workload(f"Task masks, {name}", net, batch, kind=MASKS, targets=targets)


WORKLOADS = (
    _paper(1, sgd=1.05, adam=1.05),
    _paper(16, sgd=1.05, adam=1.05),
    _paper(128, sgd=1.03, adam=1.05),
    _rl(64),
    _rl(256),
    Workload("20-5-1, batch 1", TINY, 1, "mse", targets={"sgd": 1.15, "adam": 1.05, "graph": 0.4}, graphs=True),
    Workload("ConvNet 32-64-128, batch 100", CONVNET, 100, targets={"sgd": 1.01, "adam": 1.01}),
    *map(_wide, (256, 512, 1024, 2048, 4096, 8192)),
    _traced("GPT-2-like blocks, 4 x 256, 512 tokens", GPT, 1, "mse"),
    _traced("ResNet-18, 3x32x32, batch 32", RESNET, 32, "cross_entropy"),
    Workload(
        "Adam's step alone, 784-2000x3-10",
        PAPER,
        1,
        kind=STEP,
        targets={"never reset": 1.0, "reset": 1.1, "reset, torch operations": 0.5},
    ),
    _masks("784-256-100-64-10, batch 128", ADAHAT, 128, hat=1.25, ada_hat=1.35),
    _masks("784-2000x3-10, batch 128", PAPER, 128, hat=1.15, ada_hat=1.25),
    _masks("ConvNet 32-64-128, batch 100", CONVNET, 100, hat=1.05, ada_hat=1.08),
    Workload("30 networks 20-5-1, batch 1", TINY, 1, "mse", kind=MANY, members=30, targets={"ensemble": 1 / 20}),
    Workload(
        "10 networks 784-100-100-10, batch 16",
        (784, 100, 100, 10),
        16,
        kind=MANY,
        members=10,
        targets={"ensemble": 1 / 3},
    ),
)
QUICK_MATURITY = 10

GPU_WORKLOADS = tuple(replace(one, brief=False) if one.net in TRACED else one for one in WORKLOADS if one.kind == LOOP)
