"""What gnt keeps on the host stays there if the user has set another default device (`torch.set_default_device`)."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt

PACKAGE = Path(gnt.__file__).parent
FACTORIES = (
    *("tensor", "as_tensor", "zeros", "ones", "empty", "full", "arange", "linspace", "eye"),
    *("rand", "randn", "randint", "randperm"),
)
# modules of gnt.nn are built on the default device, as those of torch; benchmarks do not change it
ELSEWHERE = ("nn", "benchmarks")
RATES: dict[str, Any] = {"replacement_rate": 0.2, "maturity_threshold": 2}


def test_each_tensor_is_created_on_a_given_device() -> None:
    without = []
    for path in sorted([*PACKAGE.rglob("*.py"), *(PACKAGE / "optim").rglob("*.py")]):
        if path.relative_to(PACKAGE).parts[0] in ELSEWHERE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in FACTORIES
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "torch"
                and not {"device", None} & {keyword.arg for keyword in node.keywords}
            ):
                without.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: torch.{node.func.attr}")
    assert not without, "without device=:\n" + "\n".join(without)


def net() -> nn.Sequential:
    with torch.device("cpu"):
        return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    with torch.device("cpu"):
        return torch.randn(8, 6), torch.randint(3, (8,))


def train(network: nn.Module, optimizer: torch.optim.Optimizer, after: Callable[[], Any] = lambda: None) -> None:
    for _ in range(12):
        x, y = batch()
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
        after()


def adam_gnt(kernels: bool | None) -> None:
    network = net()
    optimizer = gnt.optim.AdamGnT(network.parameters(), kernels=kernels)
    for _ in range(2):
        train(network, optimizer)
        optimizer.reset_units(network[0].weight, 0, [1])
        optimizer.load_state_dict(optimizer.state_dict())


def cbp(kind: str, kernels: bool | None) -> None:
    network = net()
    optimizer = getattr(gnt.optim, kind)(network, lr=0.01, kernels=kernels, **RATES)
    train(network, optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    train(network, optimizer)
    assert sum(group.state.replaced for group in optimizer.gnt.groups)


def engine(kernels: bool | None, **settings: Any) -> None:
    network = net()
    optimizer = torch.optim.Adam(network.parameters())
    train(network, optimizer, gnt.GnT(network, optimizer, kernels=kernels, **RATES, **settings).step)


def beside(make: Callable[[nn.Module, torch.optim.Optimizer], Any]) -> None:
    network = net()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    train(network, optimizer, make(network, optimizer).step)


def learner(make_method: Callable[[nn.Module], Any]) -> None:
    network = net()
    made = gnt.Backprop(network, methods=[make_method(network)], loss="cross_entropy")
    for _ in range(4):
        made.learn(*batch())


CASES: dict[str, Callable[[], None]] = {
    **{f"AdamGnT kernels={k}": lambda k=k: adam_gnt(k) for k in (None, False)},
    **{f"{n} kernels={k}": lambda n=n, k=k: cbp(n, k) for n in ("CBPSGD", "CBPAdamW") for k in (None, False)},
    **{f"GnT kernels={k}": lambda k=k: engine(k, init="orthogonal", accumulate=False) for k in (None, False)},
    "GnT soft": lambda: engine(None, soft=True),
    "UPGD": lambda: train(network := net(), gnt.optim.UPGD(network.parameters())),
    "ReDo": lambda: beside(lambda n, o: gnt.ReDo(n, o, period=3)),
    "SNR": lambda: beside(gnt.SNR),
    "SWR": lambda: beside(lambda n, o: gnt.SWR(n, o, period=3)),
    "ShrinkAndPerturb": lambda: beside(lambda n, _: gnt.ShrinkAndPerturb(n, shrink=0.9, noise=0.1)),
    "replay": lambda: learner(lambda n: gnt.DER(n, gnt.ReplayBuffer(9))),
    "spectral": lambda: learner(lambda n: gnt.Spectral(n, 0.1)),
    "trace": lambda: print(gnt.trace(net(), batch()[0])),
    "check": lambda: print(
        gnt.plasticity_check(net(), torch.optim.SGD, [batch()], "cross_entropy", steps=3, seeds=2, progress=False)
    ),
    "check of tensors": lambda: print(
        gnt.plasticity_check(net(), torch.optim.SGD, batch(), "cross_entropy", steps=3, seeds=2, progress=False)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_networks_on_the_cpu_are_trained_under_another_default_device(case: str) -> None:
    with torch.device("meta"):
        CASES[case]()
