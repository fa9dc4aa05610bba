"""The processes that train one network together: which they are, whether they agree, and sums over them.

Every process has its own engine and sees its own part of the batch. Means are over the samples of all processes
(`gnt.importance`), so that all processes compute the same utilities; random numbers are those of the first rank. All
later arithmetic is then the same on every process.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_world: Any = getattr(getattr(dist, "distributed_c10d", None), "_world", None)
_world_values: dict[str, Any] = getattr(_world, "__dict__", {})

TorchProcessGroup = Any  # torch.distributed.ProcessGroup does not exist if torch was built without distributed support


_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside this context nothing is exchanged with other processes, as for copies that only this process trains."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def is_initialized() -> bool:
    """True if torch.distributed has a default process group; as `dist.is_initialized`, in a fifth of the time."""
    if "_default_pg" not in _world_values:
        return dist.is_available() and dist.is_initialized()
    return _world_values["_default_pg"] is not None


def check_process_group(value: TorchProcessGroup) -> None:
    """Raise TypeError for anything but a process group, None or False.

    `torch.distributed.new_group` gives processes outside of the group a placeholder, which is accepted too.
    """
    if value is None or value is False:
        return
    known = dist.is_available() and (isinstance(value, dist.ProcessGroup) or value is dist.GroupMember.NON_GROUP_MEMBER)
    if not known:
        raise TypeError(f"process_group must be a torch process group, None or False, got {value!r}")


def resolve_process_group(setting: TorchProcessGroup) -> TorchProcessGroup:
    """The process group for a ``process_group`` setting; None if there is only one process.

    Args:
        setting: a process group, None for the default group, or False for this process alone (and within `alone`).
    """
    if setting is False or not is_initialized() or _alone.get():
        return None
    group = dist.group.WORLD if setting is None else setting
    return group if dist.get_world_size(group) > 1 else None


class Processes:
    """The processes of one process group.

    Attributes:
        group: the torch process group.
        size: number of processes.
        synchronized: True once `synchronize` has succeeded.
    """

    def __init__(self, group: TorchProcessGroup) -> None:
        self.group = group
        self.size = dist.get_world_size(group)
        self.synchronized = False

    def synchronize(
        self,
        descriptions: Mapping[str, str],
        advice: Mapping[str, str],
        hidden: Sequence[str],
        generators: Sequence[torch.Generator],
        device: torch.device,
    ) -> None:
        """Check that all ranks describe the same run, then give all ranks the first rank's random numbers.

        Args:
            descriptions: what must be the same on every rank, by name.
            advice: what to do about a difference, by the same names.
            hidden: names whose descriptions are too long for an error message.
            generators: set to the state of rank 0.
            device: device of the exchanged tensors.

        Raises:
            ValueError: on all ranks, if a description differs between them.
        """
        mine = torch.cat([_digest(text) for text in descriptions.values()]).to(device)
        gathered = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(gathered, mine, group=self.group)
        digests = torch.stack(gathered).cpu().view(self.size, len(descriptions), -1)
        for number, name in enumerate(descriptions):
            different = [
                rank for rank, each in enumerate(digests[:, number]) if not torch.equal(each, digests[0, number])
            ]
            if different:
                raise ValueError(self._difference(name, descriptions[name], different, advice[name], name in hidden))
        for generator in generators:
            state = generator.get_state().to(device)
            dist.broadcast(state, group=self.group, group_src=0)
            generator.set_state(state.cpu())
        self.synchronized = True

    def _difference(self, name: str, mine: str, different: list[int], advice: str, hidden: bool) -> str:
        texts: list[Any] = [None] * self.size
        dist.all_gather_object(texts, mine, group=self.group)
        shown = "" if hidden else f": {texts[0]} on rank 0, {texts[different[0]]} on rank {different[0]}"
        ranks = ", ".join(map(str, different))
        return f"the {name} of the engine's ranks differ from those of rank 0 on rank {ranks}{shown}; {advice}"

    def all_reduce(self, values: Tensor) -> None:
        """Sum ``values`` over all processes, in place."""
        dist.all_reduce(values, group=self.group)


def _digest(text: str) -> Tensor:
    return torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8).clone()
