"""Features: what the consumers read, recorded by forward pre-hooks and reduced to per-unit statistics.

A feature is a consumer's *input*: after activation, norm, pooling, dropout, flatten. Only forwards in training mode
with grad enabled are recorded. Several forwards before one update (gradient accumulation) count as one batch of their
samples.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gnt._utils.dynamo import watch_hooks
from gnt.distributed import _dtensor as shards
from gnt.importance._feature_buffer import Waiting
from gnt.units import CONV_LAYERS, Slot, UnitGroup


class Recorder:
    """Records, for each tap of each group, the inputs of its first consumer until they are taken.

    Its hooks do not travel: in a copied or unpickled network they lie dormant, and a copied engine hangs up hooks of
    its own.
    """

    def __init__(self, groups: Sequence[UnitGroup]) -> None:
        readers = [(group, slot) for group in groups for slot in group.taps]
        self._taps = [_Tap(group.name) for group, _ in readers]
        self._handles = []
        for (_, slot), tap in zip(readers, self._taps, strict=True):
            consumer = slot.module
            hooks = consumer._forward_pre_hooks
            for key in [key for key, hook in hooks.items() if hook is _dormant]:
                del hooks[key]
                consumer._forward_pre_hooks_with_kwargs.pop(key, None)
            handle = consumer.register_forward_pre_hook(tap, with_kwargs=True)
            tap.number = handle.id
            self._handles.append(handle)
        watch_hooks()
        weakref.finalize(self, _remove, self._handles)

    @staticmethod
    def owns(hook: object) -> bool:
        """Whether a module's hook is one of an engine."""
        return isinstance(hook, _Tap) or hook is _dormant

    def take(self) -> list[list[Tensor]]:
        """The features recorded since the last call, for each tap one tensor for each forward."""
        return [tap.take() for tap in self._taps]

    @property
    def taps(self) -> Sequence[Waiting]:
        """For each tap what waits there."""
        return self._taps

    def after_backward(self, *, anew: bool) -> None:
        """What waits now has its gradients; where they began ``anew``, what had its own before was given up."""
        for tap in self._taps:
            tap.after_backward(anew=anew)

    def witness(self) -> None:
        """From now on, tell forwards that are given up: nobody but an attached engine asks."""
        for tap in self._taps:
            tap.witnessed = True

    def forget_given_up(self) -> None:
        """As `Waiting.forget_given_up`."""
        for tap in self._taps:
            tap.forget_given_up()

    @property
    def waiting(self) -> bool:
        """Whether anything was recorded since the last call of `take`."""
        return any(tap.waiting for tap in self._taps)

    @property
    def complete(self) -> bool:
        """Whether something was recorded for every group."""
        return all(tap.waiting for tap in self._taps)

    def close(self) -> None:
        """Remove the hooks and forget what they recorded."""
        for handle in self._handles:
            handle.remove()
        self.take()


def _remove(handles: Sequence[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


class _Tap(Waiting):
    """A forward pre-hook that keeps what its module is about to read."""

    def __init__(self, group: str) -> None:
        super().__init__(group)
        self.witnessed = False
        self.number = 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if module.training and torch.is_grad_enabled():
            self.add(args[0] if args else kwargs["input"])

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return _sleep, (self.number,)


def _dormant(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """What a tap becomes in a copy of its network: nobody would take what it records."""


def _sleep(number: int) -> Callable[..., None]:
    # as torch's own handles do: in a fresh process the number shall not be given to another hook of this module
    RemovableHandle.next_id = max(RemovableHandle.next_id, number + 1)
    return _dormant


class Reading:
    """What the consumers of one tap read in one update, as (samples, positions[, sites]), with its means over
    everything but units.

    ``positions`` are ``num_units * block``: a flattened channel has several. Sites are the pixels of a convolution's
    input.
    """

    def __init__(self, features: Sequence[Tensor], slot: Slot, dtype: torch.dtype) -> None:
        self._features, self._slot, self._dtype = features, slot, dtype
        self._here: Tensor | None = None  # of units that lie in shards: what this process's means weigh
        self._arranged: list[Tensor] | None = None
        self._shares: list[float] = []
        self._size: int | None = None
        self.alone: Tensor | None = None  # the feature, where there is but one, of samples, and in one place
        if len(features) == 1 and not shards.is_sharded(features[0]) and features[0].numel():
            self.alone = features[0]
            self._size = self.alone.numel() // slot.width

    @property
    def size(self) -> int:
        """Number of samples (and sites)."""
        if self._size is None:
            self._arrange_all()
        assert self._size is not None
        return self._size

    @property
    def _parts(self) -> list[Tensor]:
        return self._arranged if self._arranged is not None else self._arrange_all()

    def _arrange_all(self) -> list[Tensor]:
        parts = [self._arrange(f.detach()) for f in self._features]
        sizes = [p.shape[0] * (p.shape[3] if p.ndim == 4 else 1) for p in parts]
        self._size = sum(sizes)
        self._arranged = [p for p, n in zip(parts, sizes, strict=True) if n]
        self._shares = [n / self._size for n in sizes if n]
        return self._arranged

    def _arrange(self, feature: Tensor) -> Tensor:
        slot = self._slot
        if shards.is_sharded(feature):
            channels = 1 - slot.weight.ndim if isinstance(slot.module, CONV_LAYERS) else -1
            feature, here = shards.spread(feature, channels)
            self._here = None if here is None else slot.of_units(here, 0)
        if isinstance(slot.module, CONV_LAYERS):
            spatial = slot.weight.ndim - 2
            feature = feature.reshape(-1, feature.shape[-spatial - 1], feature.shape[-spatial:].numel())
        else:
            feature = feature.reshape(-1, feature.shape[-1])
        return slot.of_units(feature, 1)

    def _mean(self, parts: Sequence[Tensor]) -> Tensor:
        if not parts:
            device = self._slot.weight.device
            return torch.zeros(self._slot.num_units, self._slot.block, dtype=self._dtype, device=device)
        means = [p.mean(0 if p.ndim == 3 else (0, 3), dtype=self._dtype) for p in parts]
        if len(means) > 1:
            means = [torch.stack([m * share for m, share in zip(means, self._shares, strict=True)]).sum(0)]
        return means[0] if self._here is None else means[0] * self._here

    def mean(self) -> Tensor:
        """Mean feature of each position: (num_units, block)."""
        return self._mean(self._parts)

    def magnitude(self) -> Tensor:
        """Mean |h| of each position: (num_units, block)."""
        return self._mean([p.abs() for p in self._parts])

    def deviation(self, centre: Tensor) -> Tensor:
        """Mean |h - centre| of each position, ``centre`` one value a unit: (num_units, block)."""
        return self._mean(
            [(p - (centre[:, None, None] if p.ndim == 4 else centre[:, None])).abs_() for p in self._parts]
        )


class Batch(tuple[Reading, ...]):
    """The readings of one group in one update, one for each tap."""

    @property
    def size(self) -> int:
        """Number of samples (and sites); 0: an empty remainder batch."""
        return min(reading.size for reading in self)
