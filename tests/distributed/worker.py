"""Shared parts of the scenarios: start and end of a rank's process, networks, batches, optimizers and engines."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import gnt
from gnt.units import Slot, UnitGroup
from tests.helpers.shared_units import Transposed


def main(scenarios: dict[str, Callable[..., Any]], before: Callable[[], None] = lambda: None) -> None:
    """Run the scenarios named on the command line (a+b+c) and save what each returns.

    ``before`` is called before the process group is initialized.
    """
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    names, folder, *args = sys.argv[1:]
    before()
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    for name in names.split("+"):
        torch.save(scenarios[name](Path(folder), *args), Path(folder) / f"{name}-{dist.get_rank()}.pt")
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # a regular exit can crash in threads of gloo that are still running


def mlp(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A fully connected network, the same on every rank."""
    torch.manual_seed(0)
    layers = [nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 18), nn.Tanh(), nn.Linear(18, 12), nn.ReLU(), nn.Linear(12, 6)]
    return nn.Sequential(*layers).to(dtype)


def convnet() -> nn.Sequential:
    """Convolutions, a flatten with several columns for each channel, and a consumer without bias."""
    torch.manual_seed(0)
    head = [nn.Flatten(), nn.Linear(8 * 4, 12, bias=False), nn.ReLU(), nn.Linear(12, 6)]
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ELU(), *head).double()


def odd_widths() -> nn.Sequential:
    """Widths that are not divisible by the number of processes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 23), nn.ReLU(), nn.Linear(23, 17), nn.ELU(), nn.Linear(17, 6)).double()


def transposed() -> nn.Sequential:
    """Layers with weights of shape (in, out)."""
    torch.manual_seed(0)
    return nn.Sequential(Transposed.Conv1D(24, 6), nn.GELU(), Transposed.Conv1D(6, 24)).double()


def units(net: nn.Sequential) -> nn.Sequential | list[UnitGroup]:
    """The layers or groups that an engine is built from."""
    if not isinstance(net[0], Transposed.Conv1D):
        return net
    slots = Slot("0", net[0], 24, dim=1), Slot("2", net[2], 24, dim=0)
    return [UnitGroup("0", 24, slots[:1], slots[1:], activation=("gelu", None))]


def batches(net: nn.Module, samples: int, steps: int, seed: int = 3) -> list[tuple[Tensor, Tensor]]:
    """The global batches, the same on every rank."""
    source = torch.Generator().manual_seed(seed)
    shape = (1, 6, 6) if isinstance(net[0], nn.Conv2d) else (6,)
    dtype = next(net.parameters()).dtype
    return [
        (
            torch.randn(samples, *shape, generator=source, dtype=dtype),
            torch.randn(samples, 6, generator=source, dtype=dtype),
        )
        for _ in range(steps)
    ]


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda net: torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9),
    "adam": lambda net: torch.optim.Adam(net.parameters(), lr=1e-3),
    "adam_gnt": lambda net: gnt.AdamGnT(net.parameters(), lr=1e-3),
}


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Run forward, backward and optimizer step."""
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()


def engine(net: nn.Module, optimizer: torch.optim.Optimizer, **settings: Any) -> gnt.GnT:
    """An attached engine that replaces often. Its generator is seeded with ``seed``, by default with the rank."""
    seed = settings.pop("seed", None)
    generator = torch.Generator().manual_seed(100 + dist.get_rank() if seed is None else seed)
    given = {"replacement_rate": 0.02, "maturity_threshold": 5, **settings}
    layers = units(net) if isinstance(net, nn.Sequential) else net
    return gnt.GnT(layers, optimizer, generator=generator, **given).attach()


def flat(net: nn.Module) -> Tensor:
    """All parameters in one vector, with sharded ones gathered."""
    return flat_tensors(net.parameters())


def flat_tensors(tensors: Iterable[Tensor]) -> Tensor:
    """All tensors in one vector, with sharded ones gathered."""
    full = [each.full_tensor() if hasattr(each, "full_tensor") else each for each in tensors]
    return torch.cat([each.detach().flatten() for each in full]).clone()
