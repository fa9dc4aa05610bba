"""Members: a network from each seed with its generators, all of one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import nn

from gnt._utils.generators import new_generator
from gnt.learners.ensemble.stackable import Layer
from gnt.units import flatten_layers


@dataclass
class Member:
    """One network as a run alone would begin with it.

    Attributes:
        seed: the seed.
        net: what ``make_net()`` gives after ``torch.manual_seed(seed)``.
        generator: the engine's, as `GnT` makes it right after that; None for backprop, which has no engine.
        dropout: goes on as torch's global generator would from there.
        layers: the network's layers, in order, with their names.
    """

    seed: int
    net: nn.Module
    generator: torch.Generator | None
    dropout: torch.Generator
    layers: list[tuple[str, Layer]]


def grow(make_net: Callable[[], nn.Module], seeds: Iterable[int], *, engine: bool) -> list[Member]:
    """The members, each from its seed. Torch's global generators are left as they were.

    Raises:
        TypeError: ``make_net`` gives no module, or a seed is no integer.
        ValueError: no seeds, a network that is no list of layers, or networks that are not of one shape.
    """
    if not callable(make_net) or isinstance(make_net, nn.Module):
        raise TypeError(f"make_net must be a function that makes a network, got {type(make_net).__name__}")
    numbers: list[Any] = list(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, (str, bytes)) else [seeds]
    wrong = [seed for seed in numbers if not isinstance(seed, Integral) or isinstance(seed, bool)]
    if wrong or not isinstance(seeds, Iterable):
        raise TypeError(f"seeds must be a list of integers, one for each member, got {wrong[0] if wrong else seeds!r}")
    if not numbers:
        raise ValueError("seeds must name at least one member, got none")
    accelerators = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=accelerators):
        members = [_one(make_net, int(seed), engine) for seed in numbers]
    for member in members[1:]:
        _compare(members[0], member)
    return members


def _one(make_net: Callable[[], nn.Module], seed: int, engine: bool) -> Member:
    torch.manual_seed(seed)
    net = make_net()
    if not isinstance(net, nn.Module):
        raise TypeError(f"make_net must return a torch.nn.Module, got {type(net).__name__}")
    first = next(net.parameters(), None)
    if first is None:
        raise ValueError(f"make_net returned a {type(net).__name__} without parameters: there is nothing to learn")
    layers = list(flatten_layers(net))
    held = {id(p) for _, layer in layers if isinstance(layer, nn.Module) for p in layer.parameters()}
    outside = [name for name, p in net.named_parameters() if id(p) not in held]
    if outside:
        raise ValueError(f"the list of layers leaves out {', '.join(outside)} of make_net's {type(net).__name__}")
    generator = new_generator(first.device) if engine else None
    dropout = torch.Generator(device=first.device)
    dropout.set_state(torch.get_rng_state() if first.device.type == "cpu" else torch.cuda.get_rng_state(first.device))
    return Member(seed, net, generator, dropout, layers)


def _compare(first: Member, other: Member) -> None:
    """Refuse a network that differs from the first in more than its numbers."""
    mine, theirs = ([(name, _shape(layer)) for name, layer in member.layers] for member in (first, other))
    if mine == theirs:
        return
    differ = next((pair for pair in zip(mine, theirs, strict=False) if pair[0] != pair[1]), None)
    what = (
        f"layer {differ[1][0]!r} is {differ[1][1]}, of seed {first.seed} {differ[0][0]!r} is {differ[0][1]}"
        if differ
        else f"it has {len(theirs)} layers, of seed {first.seed} {len(mine)}"
    )
    raise ValueError(f"the network of seed {other.seed} is of another shape: {what}; members must differ in seed alone")


def _shape(layer: Layer) -> str:
    if not isinstance(layer, nn.Module):
        return getattr(layer, "__name__", repr(layer))
    tensors = [
        f"{key} {tuple(t.shape)} {t.dtype} on {t.device} requires_grad={t.requires_grad}"
        for key, t in {**layer._parameters, **layer._buffers}.items()
        if t is not None
    ]
    mode = "" if layer.training else ", in eval mode"
    return f"{layer!r}{mode}" + (f" with {', '.join(tensors)}" if tensors else "")
