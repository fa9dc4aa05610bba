"""Members of an ensemble: a network from each seed, with its generators; all networks have one shape."""

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
    """One member, in the state in which a single run would start.

    Attributes:
        seed: the seed.
        net: the result of ``make_net()`` after ``torch.manual_seed(seed)``.
        generator: the engine's generator, seeded as `GnT` seeds it right after that; None without an engine.
        dropout: a generator that continues torch's global generator from there, for the draws of dropout.
        layers: the network's layers, in order, with their names.
    """

    seed: int
    net: nn.Module
    generator: torch.Generator | None
    dropout: torch.Generator
    layers: list[tuple[str, Layer]]


def make_members(make_net: Callable[[], nn.Module], seeds: Iterable[int], *, with_engine: bool) -> list[Member]:
    """A member for each seed. Torch's global generators are left as they were.

    Raises:
        TypeError: ``make_net`` does not return a module, or a seed is not an integer.
        ValueError: no seeds, a network that is not a list of layers, networks of different shapes, or the same network
            for two seeds.
    """
    if not callable(make_net) or isinstance(make_net, nn.Module):
        raise TypeError(f"make_net must be a function that makes a network, got {type(make_net).__name__}")
    numbers: list[Any] = list(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, (str, bytes)) else [seeds]
    wrong = [seed for seed in numbers if not isinstance(seed, Integral) or isinstance(seed, bool)]
    if wrong or not isinstance(seeds, Iterable):
        raise TypeError(f"seeds must be a list of integers, one for each member, got {wrong[0] if wrong else seeds!r}")
    if not numbers:
        raise ValueError("seeds must hold an integer for at least one member, got none")
    accelerators = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=accelerators):
        members = [_make_member(make_net, int(seed), with_engine) for seed in numbers]
    owners: dict[int, Member] = {}
    for member in members:
        _check_same_shape(members[0], member)
        for tensor in [*member.net.parameters(), *member.net.buffers()]:
            other = owners.setdefault(id(tensor), member)
            if other is not member:
                what = "the same network" if other.net is member.net else "networks that share a parameter or buffer"
                raise ValueError(
                    f"make_net must return a new network in each call, got {what} for seeds {other.seed} and "
                    f"{member.seed}"
                )
    return members


def _make_member(make_net: Callable[[], nn.Module], seed: int, with_engine: bool) -> Member:
    torch.manual_seed(seed)
    net = make_net()
    if not isinstance(net, nn.Module):
        raise TypeError(f"make_net must return a torch.nn.Module, got {type(net).__name__}")
    first = next(net.parameters(), None)
    if first is None:
        raise ValueError(f"make_net returned a {type(net).__name__} without parameters: there is nothing to learn")
    layers = list(flatten_layers(net))
    listed = {id(p) for _, layer in layers if isinstance(layer, nn.Module) for p in layer.parameters()}
    missing = [name for name, p in net.named_parameters() if id(p) not in listed]
    if missing:
        raise ValueError(f"the list of layers of make_net's {type(net).__name__} leaves out {', '.join(missing)}")
    generator = new_generator(first.device) if with_engine else None
    dropout = torch.Generator(device=first.device)
    dropout.set_state(torch.get_rng_state() if first.device.type == "cpu" else torch.cuda.get_rng_state(first.device))
    return Member(seed, net, generator, dropout, layers)


def _check_same_shape(first: Member, other: Member) -> None:
    """Refuse a network that differs from the first one in more than the values of its tensors."""
    mine, theirs = ([(name, _describe(layer)) for name, layer in member.layers] for member in (first, other))
    if mine == theirs:
        return
    differ = next((pair for pair in zip(mine, theirs, strict=False) if pair[0] != pair[1]), None)
    what = (
        f"layer {differ[1][0]!r} is {differ[1][1]}, but for seed {first.seed} {differ[0][0]!r} is {differ[0][1]}"
        if differ
        else f"it has {len(theirs)} layers, that of seed {first.seed} has {len(mine)}"
    )
    raise ValueError(f"the network of seed {other.seed} has another shape: {what}; members may differ only in seed")


def _describe(layer: Layer) -> str:
    """A layer with the shapes, dtypes and devices of its tensors, and its mode."""
    if not isinstance(layer, nn.Module):
        return getattr(layer, "__name__", repr(layer))
    tensors = [
        f"{key} {tuple(t.shape)} {t.dtype} on {t.device} requires_grad={t.requires_grad}"
        for key, t in {**layer._parameters, **layer._buffers}.items()
        if t is not None
    ]
    mode = "" if layer.training else ", in eval mode"
    return f"{layer!r}{mode}" + (f" with {', '.join(tensors)}" if tensors else "")
