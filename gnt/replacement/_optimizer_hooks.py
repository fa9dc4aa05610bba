"""Attached to its optimizer, an engine acts after each of its steps and rides in its state_dict.

Nothing in the training loop changes: the optimizer's own hooks call the engine, so schedulers, gradient scalers,
clipping and trainers that wrap the optimizer work as they did.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gnt._utils.dynamo import not_compiled
from gnt.importance._backward_watch import Backwards, skipped
from gnt.importance._intake import Intake
from gnt.replacement import _checkpoint as saving
from gnt.units import UnitGroup

if TYPE_CHECKING:
    from gnt.replacement.engine import GnT

KEY = "gnt"


class Attachment:
    """The hooks of one engine on one optimizer."""

    def __init__(self, engine: GnT, optimizer: Optimizer, intake: Intake, key: str | None = None) -> None:
        _take_over(engine)
        intake.witness()
        self._engine = engine
        self.key = key or _free_key(optimizer)
        self._loading: dict[str, Any] | None = None
        self._handles: list[RemovableHandle | Backwards] = [
            optimizer.register_step_post_hook(self._after_step),
            optimizer.register_state_dict_post_hook(self._save),
            optimizer.register_load_state_dict_pre_hook(self._check),
            optimizer.register_load_state_dict_post_hook(self._load),
        ]
        self._handles.append(Backwards(intake, engine.groups[0].incoming[0].weight))
        _attachments.add(self)

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        _attachments.discard(self)

    def retire(self, group: str, successor: str) -> None:
        """Record no more, and refuse further steps: another engine has taken over. The state can still be saved."""

        def refuse(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            raise RuntimeError(
                f"the engine of this {type(optimizer).__name__} shares units of group {group!r} with one that was "
                f"attached later, to {successor}: step that one, or close() this one (of CBPSGD, CBPAdam and CBPAdamW "
                "it is optimizer.gnt)"
            )

        optimizer = self._engine.optimizer
        assert optimizer is not None
        self._handles.append(optimizer.register_step_pre_hook(refuse))
        self._engine.feature_buffer.stop_recording()
        _attachments.discard(self)

    @not_compiled
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if skipped(optimizer):
            self._engine.discard()
            return
        self._engine.feature_buffer.forget_given_up()
        if self._engine.waiting:
            self._engine.step()

    def _save(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        return {**state_dict, self.key: self._engine.state_dict()}

    def _check(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Refuse the state of another engine before the optimizer takes its own."""
        self._loading = state_dict.get(self.key)
        if self._loading is not None:
            saving.check(self._loading, self._engine.groups, self._engine.utility)
        elif not self._engine.loaded:  # a distributed checkpoint holds the engine's state beside the optimizer's
            warnings.warn(
                f"this state_dict of {type(optimizer).__name__} was saved without an engine: its units keep their ages",
                stacklevel=5,
            )
        return {name: value for name, value in state_dict.items() if name != self.key}

    def _load(self, optimizer: Optimizer) -> None:
        loading, self._loading = self._loading, None
        if loading is not None:
            self._engine.load_state_dict(loading)


_attachments: weakref.WeakSet[Attachment] = weakref.WeakSet()


def _free_key(optimizer: Optimizer) -> str:
    """The name of this engine's state in the optimizer's: "gnt", or where that is taken "gnt_1" and so on."""
    hooks = optimizer._optimizer_step_post_hooks.values()
    taken = {owner.key for hook in hooks if isinstance(owner := getattr(hook, "__self__", None), Attachment)}
    return next(key for key in (KEY, *(f"{KEY}_{i}" for i in range(1, len(taken) + 1))) if key not in taken)


def _take_over(engine: GnT) -> None:
    """Two engines on one unit would replace each other's young, each with ages of its own: the newer one has it.

    A trainer that makes its optimizer anew keeps the old one for a while, and steps it no more. Should anyone step it,
    that is refused.
    """
    earlier = list(_shared(engine))
    for attachment, group in earlier:
        if attachment._engine.optimizer is engine.optimizer:
            raise RuntimeError(
                f"another engine, attached to this {type(engine.optimizer).__name__}, looks after units of group "
                f"{group!r}: close() that one before this is attached (of CBPSGD, CBPAdam and CBPAdamW it is "
                "optimizer.gnt)"
            )
    for attachment, group in earlier:
        attachment.retire(group, type(engine.optimizer).__name__)


def _shared(engine: GnT) -> Iterator[tuple[Attachment, str]]:
    """What attaches engines to units of this one already, with the name of a group that they share."""
    mine = {id(slot.module): group for group in engine.groups for slot in group.incoming}
    for attachment in list(_attachments):
        for theirs in attachment._engine.groups:
            for module in {id(slot.module) for slot in theirs.incoming} & set(mine):
                if any(_overlap(group, theirs, module) for group in engine.groups):
                    yield attachment, mine[module].name


def _overlap(group: UnitGroup, other: UnitGroup, module: int) -> bool:
    """Whether both have a row of the module."""
    mine, theirs = (
        {
            int(row)
            for slot in each.incoming
            if id(slot.module) == module
            for row in slot.index(torch.arange(slot.num_units))
        }
        for each in (group, other)
    )
    return bool(mine & theirs)
