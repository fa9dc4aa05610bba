"""Hooks on an optimizer that step an engine after each optimizer step, and save its state with the optimizer's.

The training loop does not change: the optimizer's own hooks call the engine, so schedulers, gradient scalers, clipping
and trainers that wrap the optimizer work as before.
"""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor
from torch.optim import Optimizer

from gnt._utils.dynamo import not_compiled
from gnt._utils.optimizer_hooks import register_hooks, require_hooks, unused_key
from gnt.importance import FeatureBuffer, GroupWatches, WeightMeans, step_was_skipped
from gnt.replacement._checkpoint import CheckedState
from gnt.replacement._followers import shared_units
from gnt.replacement.no_features_warning import WARN_AFTER, warn_without_features
from gnt.units import UnitGroup

STATE_KEY = "gnt"


class AttachableEngine(Protocol):
    """What the hooks need of an engine."""

    groups: tuple[UnitGroup, ...]
    loaded: bool
    loads: int
    updates: int
    replaced: list[Tensor]

    @property
    def feature_buffer(self) -> FeatureBuffer:
        """The features recorded since the last update."""

    @property
    def optimizer(self) -> Optimizer | None:
        """The engine's optimizer."""

    @property
    def weight_means(self) -> Mapping[int, WeightMeans]:
        """Where an optimizer can store the means of |w|, by the id of the weight."""

    def is_followed_by(self, other: object) -> bool:
        """True if the other takes part in the replacements of this engine."""

    def check_structure(self) -> None:
        """Raise RuntimeError if the network is no longer the one that the engine was built for."""

    def step_recorded(self) -> bool:
        """Update, select and replace with the recorded features; False if there are none."""

    def no_units(self) -> list[Tensor]:
        """Empty indices for each group."""

    def discard(self) -> None:
        """Drop the recorded features."""

    def state_dict(self) -> dict[str, Any]:
        """The engine's state."""

    def checked_state(self, state_dict: Any) -> CheckedState:
        """Check a saved state of the engine."""

    def load_checked_state(self, state: CheckedState) -> None:
        """Load a checked state."""


class CopiedHooks(NamedTuple):
    """What a copied engine needs to be attached as the original is."""

    key: str
    number: int


class OptimizerHooks:
    """The hooks of one engine on one optimizer.

    Args:
        engine: the engine.
        optimizer: the optimizer.
        copied: in a copy, what the hooks of the original have returned by `for_copy`.

    Attributes:
        key: the name of the engine's state in the optimizer's state_dict.
        number: the engines of one optimizer step in the order of these numbers.
        engine: the engine.
    """

    key: str

    def __init__(self, engine: AttachableEngine, optimizer: Optimizer, copied: CopiedHooks | None = None) -> None:
        require_hooks(optimizer)
        earlier = _earlier_engines(engine, engine.groups)
        self.engine = engine
        self.key, self.number = copied or CopiedHooks(
            unused_key(STATE_KEY, {owner.key for owner in _hooks_of(optimizer)}), next(_numbers)
        )
        self._state_to_load: CheckedState | None = None
        self._own_load: int | None = None  # which of the engine's loads was the latest by these hooks
        self._watches: GroupWatches | None = None
        self._steps_without_features = 0
        self._checked = False  # the structure, before the step that is running
        # of an AdamGnT, whose kernel can compute the means of |w| for the engine while w is in the cache
        self._write_means: Callable[..., None] | None = getattr(optimizer, "write_weight_means", None)
        self.watch_backward()  # first, so that no hook of the optimizer is left behind if it fails
        self._handles = register_hooks(
            optimizer,
            before_step=self._before_step,
            after_step=self._after_step,
            save=self._save,
            check=self._check,
            load=self._load,
        )
        self._follow_groups(earlier)
        _active_hooks.add(self)
        if copied is not None:
            _sort_by_number(optimizer)

    def for_copy(self) -> CopiedHooks:
        """What a copy of the engine needs to be attached in the same way."""
        return CopiedHooks(self.key, self.number)

    def prepare_rebind(self, groups: Sequence[UnitGroup]) -> Callable[[], None]:
        """Check that the engine can be bound to other groups; the result is to be called once it has them.

        Raises:
            RuntimeError: another engine, attached to the same optimizer, has a unit of these groups.
        """
        earlier = _earlier_engines(self.engine, groups)

        def follow() -> None:
            self.watch_backward()
            self._follow_groups(earlier)

        return follow

    def _follow_groups(self, earlier: Sequence[tuple[OptimizerHooks, str]]) -> None:
        """Stop earlier engines of the same units, and keep track of features that are abandoned."""
        for hooks, group in earlier:
            hooks.stop(group, type(self.engine.optimizer).__name__)
        self.engine.feature_buffer.require_backward()

    def check_unfollow(self, other: object) -> None:
        """Refuse to let an engine of the same optimizer, on the same units, follow no longer.

        Raises:
            RuntimeError: both are attached.
        """
        assert self.engine.optimizer is not None
        if any(hooks.engine is other for hooks in _hooks_of(self.engine.optimizer)):
            raise RuntimeError(
                f"both engines are attached to this {type(self.engine.optimizer).__name__} and have units in common, "
                "so each must follow the other: close() one of them first"
            )

    def watch_backward(self) -> None:
        """For each group watch the gradient of a parameter that is trained, to find out that features were abandoned.

        If all are frozen, none is watched until this is called again.
        """
        watches = GroupWatches(self.engine.groups, self.engine.feature_buffer.by_group())
        if self._watches is not None:
            self._watches.remove()
        self._watches = watches

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        if self._watches is not None:
            self._watches.remove()
        if self._write_means is not None:
            self._write_means(None)
        _active_hooks.discard(self)

    def stop(self, group: str, successor: str) -> None:
        """Stop recording, and raise an error at further steps: another engine has taken over its units.

        The state can still be saved.
        """

        def raise_stopped(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            raise RuntimeError(
                f"the engine of this {type(optimizer).__name__} shares units of group {group!r} with one that was "
                f"attached later, to {successor}: step that one, or close() this one (of CBPSGD, CBPAdam and CBPAdamW "
                "it is optimizer.gnt)"
            )

        optimizer = self.engine.optimizer
        assert optimizer is not None
        self._handles.append(optimizer.register_step_pre_hook(raise_stopped))
        self.engine.feature_buffer.stop_recording()
        _active_hooks.discard(self)

    @not_compiled
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.engine.check_structure()
        self._checked = True
        if self._write_means is not None and self._is_first_after_step(optimizer):
            self._write_means(self.engine.weight_means)

    def _is_first_after_step(self, optimizer: Optimizer) -> bool:
        """True if no other hook can change weights between the optimizer's step and the engine's."""
        return _owner(next(iter(optimizer._optimizer_step_post_hooks.values()))) is self

    @not_compiled
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        checked, self._checked = self._checked, False
        if step_was_skipped(optimizer):
            self.engine.discard()
            self.engine.replaced = self.engine.no_units()
            return
        if self._watches is not None:
            self._watches.drop_abandoned()
        if not checked:
            self.engine.check_structure()
        if self.engine.step_recorded():
            self._steps_without_features = 0
        else:
            self._steps_without_features += 1
            if self._steps_without_features == WARN_AFTER:
                warn_without_features(self.engine.groups)

    def _save(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        return {**state_dict, self.key: self.engine.state_dict()}

    def _check(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Check the engine's state before the optimizer loads its own."""
        self._state_to_load = None
        if self.key in state_dict:
            self._state_to_load = self.engine.checked_state(state_dict[self.key])
        elif not self.engine.loaded or self.engine.loads == self._own_load:
            # a distributed checkpoint keeps the engine's state beside the optimizer's: then it was loaded just before
            warnings.warn(
                f"this state_dict of {type(optimizer).__name__} was saved without an engine: its units keep their ages",
                stacklevel=5,
            )
        return {name: value for name, value in state_dict.items() if name != self.key}

    def _load(self, optimizer: Optimizer) -> None:
        state, self._state_to_load = self._state_to_load, None
        if state is not None:
            self.engine.load_checked_state(state)
            self._own_load = self.engine.loads


_numbers = itertools.count()
_active_hooks: weakref.WeakSet[OptimizerHooks] = weakref.WeakSet()


def _hooks_of(optimizer: Optimizer) -> list[OptimizerHooks]:
    hooks = optimizer._optimizer_step_post_hooks.values()
    return [owner for hook in hooks if isinstance(owner := _owner(hook), OptimizerHooks)]


def attached_engines(optimizer: Optimizer) -> list[AttachableEngine]:
    """The engines that step after each step of this optimizer, in the order in which they were attached."""
    return [hooks.engine for hooks in _hooks_of(optimizer)]


def _sort_by_number(optimizer: Optimizer) -> None:
    """Let the engines of an optimizer step in the order of their numbers: copies are made in any order."""
    steps = optimizer._optimizer_step_post_hooks
    owners = {key: owner for key, hook in steps.items() if isinstance(owner := _owner(hook), OptimizerHooks)}
    for key in sorted(owners, key=lambda key: owners[key].number):
        steps[key] = steps.pop(key)


def _owner(hook: Any) -> Any:
    return getattr(hook, "__self__", None)


def _earlier_engines(engine: AttachableEngine, groups: Sequence[UnitGroup]) -> list[tuple[OptimizerHooks, str]]:
    """Other engines that are attached to units of these groups, to be stopped.

    Two engines would replace each other's new units. A trainer that builds a new optimizer keeps the old one for a
    while, without stepping it.

    Returns:
        The hooks of each engine, with the name of a shared group.

    Raises:
        RuntimeError: one of them is attached to the same optimizer, and the two do not follow each other.
    """
    earlier = []
    for hooks, group in _sharing_units(groups):
        other = hooks.engine
        if other is engine:
            continue
        if other.optimizer is not engine.optimizer:
            earlier.append((hooks, group))
        elif not (engine.is_followed_by(other) and other.is_followed_by(engine)):
            raise RuntimeError(
                f"another engine, attached to this {type(engine.optimizer).__name__}, has units of group "
                f"{group!r}: close() that one before this is attached (of CBPSGD, CBPAdam and CBPAdamW it is "
                "optimizer.gnt), or let each follow the other: engine.follow(other), other.follow(engine)"
            )
    return earlier


def _sharing_units(groups: Sequence[UnitGroup]) -> Iterator[tuple[OptimizerHooks, str]]:
    """The hooks of engines that have units of these groups, each with the name of a shared group."""
    mine = {id(slot.module): group for group in groups for slot in group.incoming}
    for hooks in list(_active_hooks):
        for theirs in hooks.engine.groups:
            for module in {id(slot.module) for slot in theirs.incoming} & set(mine):
                if any(len(shared_units(group, theirs)) for group in groups):
                    yield hooks, mine[module].name
