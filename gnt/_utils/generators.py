"""Random generators, and their saved states."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# number of bytes in the state of a generator, by type of device
_CPU_BYTES = torch.Generator().get_state().numel()
_OTHER_BYTES = {"cuda": 16, "mps": 44}


def new_generator(device: torch.device) -> torch.Generator:
    """Return a generator on ``device`` whose seed is drawn from torch's global generator.

    `torch.manual_seed` therefore determines its draws, as it does for torch's DataLoader.
    """
    seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_().item())
    return torch.Generator(device=device).manual_seed(seed)


def member_generators(
    given: Any, parameters: Sequence[Tensor], names: Sequence[str], net: Any
) -> list[torch.Generator]:
    """The generators of a method's draws: one, or one for each member of an ensemble.

    Args:
        given: a generator, a list of them, or None for a new one.
        parameters, names: what the method acts on.
        net: where they are from; the network of an ensemble has the number of ``members``.

    Raises:
        TypeError: something else.
        ValueError: a generator that is listed twice, or another number of them than of members.
    """
    if given is None:
        return [new_generator(parameters[0].device)]
    generators: list[Any] = (
        [given] if isinstance(given, torch.Generator) else list(given) if isinstance(given, (list, tuple)) else []
    )
    if not generators or not all(isinstance(each, torch.Generator) for each in generators):
        raise TypeError(
            f"generator must be a torch.Generator, a list of them (one for each member), or None, got {given!r}"
        )
    if len({id(each) for each in generators}) < len(generators):
        raise ValueError("generator holds a generator twice: each member needs its own")
    for name, parameter in zip(names, parameters, strict=True) if len(generators) > 1 else ():
        if not parameter.ndim or parameter.shape[0] % len(generators):
            raise ValueError(
                f"parameter {name} of shape {tuple(parameter.shape)} does not hold the parameters of "
                f"{len(generators)} members: pass several generators only for the network of a gnt.Ensemble with as "
                "many members"
            )
    members = getattr(net, "members", None)
    if isinstance(members, int) and len(generators) not in (1, members):
        raise ValueError(f"generator holds {len(generators)} generators; this ensemble has {members} members")
    return generators


class MemberGenerators:
    """The members' generators behind the interface of one: `get_state`, `set_state` and ``device``."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = list(generators)
        self.device = self.generators[0].device

    def get_state(self) -> Tensor:
        """The states, a row for each member."""
        return torch.stack([each.get_state() for each in self.generators])

    def fitting_state(self, saved: Any) -> Tensor:
        """Saved states in the form that `set_state` takes; each member's may be of another type of device.

        Raises:
            ValueError: not the result of `get_state`, or of another number of members.
        """
        members = len(self.generators)
        if not isinstance(saved, Tensor) or saved.ndim != 2 or len(saved) != members:
            got = f"a tensor of shape {tuple(saved.shape)}" if isinstance(saved, Tensor) else type(saved).__name__
            raise ValueError(f"{members} generators need a state for each of {members} members, got {got}")
        return torch.stack([fitting_state(row, own) for row, own in zip(saved, self.generators, strict=True)])

    def set_state(self, state: Tensor) -> None:
        """Restore the result of `get_state`."""
        for generator, row in zip(self.generators, state, strict=True):
            generator.set_state(row.clone())  # torch reads a view of a larger tensor from the wrong address


def fitting_state(saved: Any, generator: torch.Generator) -> Tensor:
    """A saved state in the form that ``generator.set_state`` takes; changes nothing.

    The state of a generator on another type of device (saved on a GPU and loaded on the CPU, or the other way round)
    determines a seed: the draws continue with other numbers than on the original device, and with the same ones
    whenever this state is loaded.

    Raises:
        ValueError: not the state of a generator.
    """
    own = generator.get_state()
    if not isinstance(saved, Tensor) or saved.dtype != torch.uint8 or saved.ndim != 1 or saved.is_meta:
        got = f"{saved.dtype} of shape {tuple(saved.shape)}" if isinstance(saved, Tensor) else type(saved).__name__
        raise _misfit(generator, own, f"{got}{' on meta' if isinstance(saved, Tensor) and saved.is_meta else ''}")
    trial = torch.Generator(device=generator.device)
    state = saved.detach().cpu().clone(memory_format=torch.contiguous_format)
    if state.numel() == own.numel():
        try:
            trial.set_state(state)
        except RuntimeError as error:
            raise _misfit(generator, own, str(error).splitlines()[0]) from None
        return state
    if state.numel() not in (_CPU_BYTES, *_OTHER_BYTES.values()):
        raise _misfit(generator, own, f"{state.numel()} bytes")
    digest = hashlib.sha256(bytes(state.tolist())).digest()
    return trial.manual_seed(int.from_bytes(digest[:8], "little") >> 1).get_state()


def _misfit(generator: torch.Generator, own: Tensor, got: str) -> ValueError:
    return ValueError(
        f"a saved generator does not fit this one, on {generator.device}: it must be what get_state() of a "
        f"torch.Generator returns ({own.numel()} bytes here, in a 1-d uint8 tensor), got {got}"
    )
