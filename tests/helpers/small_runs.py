"""Small networks, their training, and bit-exact comparison of everything that training changes."""

from __future__ import annotations

import copy
from collections import OrderedDict
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import optimizer as torch_optimizer

import gnt

IMAGE_SHAPE = (1, 8, 8)  # of the inputs of `conv_net`
# settings under which units are replaced in almost every step
FREQUENT_REPLACEMENT: dict[str, Any] = {"replacement_rate": 0.1, "maturity_threshold": 2, "decay_rate": 0.9}


def mlp(*widths: int, seed: int = 0) -> nn.Sequential:
    """A ReLU network, of widths (4, 8, 6, 2) by default."""
    torch.manual_seed(seed)
    widths = widths or (4, 8, 6, 2)
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def conv_net(seed: int = 0) -> nn.Sequential:
    """Convolutions with a batch norm, followed by linear layers: inputs of shape `IMAGE_SHAPE`, 2 outputs."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU()),
        *(nn.Conv2d(5, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 2)),
    )


def batch(t: int, *shape: int, n: int = 8) -> tuple[Tensor, Tensor]:
    """Inputs (n, *shape) and targets (n, 2) of step ``t``; the shape is (4,) by default."""
    generator = torch.Generator().manual_seed(1000 + t)
    return torch.randn(n, *(shape or (4,)), generator=generator), torch.randn(n, 2, generator=generator)


def train(net: nn.Module, opt: torch.optim.Optimizer, engine: Any, steps: range, *shape: int) -> list[list[Tensor]]:
    """Run forward, backward, optimizer step and engine step. Returns the replaced units of each step."""
    first = next(net.parameters())
    replaced = []
    for t in steps:
        x, y = (tensor.to(first.device, first.dtype) for tensor in batch(t, *shape))
        opt.zero_grad()
        F.mse_loss(net(x), y).backward()
        opt.step()
        replaced.append(engine.step() if engine is not None else [])
    return replaced


def make_run(net: nn.Module, opt: str = "sgd", **settings: Any) -> tuple[nn.Module, torch.optim.Optimizer, gnt.GnT]:
    """The network with an optimizer and an engine: the arguments of `train`."""
    make = {"sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), "adamgnt": lambda p: gnt.AdamGnT(p, lr=0.01)}
    optimizer = make[opt](net.parameters())
    generator = torch.Generator().manual_seed(5)
    return net, optimizer, gnt.GnT(net, optimizer, **{**FREQUENT_REPLACEMENT, "generator": generator, **settings})


def without_global_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove, during a test, the hooks on all optimizers that CBP layers of other tests have registered."""
    for kind in ("pre", "post"):
        monkeypatch.setattr(torch_optimizer, f"_global_optimizer_{kind}_hooks", OrderedDict())


def replaced(engine: gnt.GnT) -> list[int]:
    """The number of units replaced so far in each group."""
    return [group.state.replaced for group in engine.groups]


def full_state(net: nn.Module, opt: torch.optim.Optimizer | None = None, engine: Any = None) -> dict[str, Any]:
    """Copies of parameters, buffers, optimizer state, engine state, and the state of torch's generator."""
    return copy.deepcopy(
        {
            "net": dict(net.state_dict()),
            "opt": opt.state_dict() if opt is not None else None,
            "engine": engine.state_dict() if engine is not None else None,
            "torch's generator": torch.get_rng_state(),
        }
    )


def assert_same(a: Any, b: Any, at: str = "value") -> None:
    """Assert that both have the same structure, dtypes and bits."""
    assert type(a) is type(b), f"{at}: {type(a).__name__} and {type(b).__name__}"
    if isinstance(a, dict):
        assert set(a) == set(b), f"{at}: keys {set(a) ^ set(b)}"
        for key in a:
            assert_same(a[key], b[key], f"{at}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), f"{at}: {len(a)} and {len(b)} entries"
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{at}[{i}]")
    elif isinstance(a, Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), f"{at}: {a.dtype} {a.shape}, {b.dtype} {b.shape}"
        assert torch.equal(_bits(a), _bits(b)), f"{at}: {a} and {b}"
    else:
        assert a == b, f"{at}: {a!r} and {b!r}"


def _bits(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat.clone(memory_format=torch.contiguous_format).view(torch.uint8)  # one element may have stride 0
