"""`SavedNetwork`: the state dict of a `HAT`, and its copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from gnt._utils.state_dicts import Entry, random_state, tensor
from gnt.protection._gated_network import Progress
from gnt.protection._hat_optimizer import add_embedding, check_optimizer, embedding_group
from gnt.protection._hat_state import STATE_VERSION, checked_state
from gnt.protection._reported_network import ReportedNetwork
from gnt.replacement import unwrap_optimizer


class SavedNetwork(ReportedNetwork):
    """Base class of `HAT`: saving, loading and copying. Arguments and attributes are those of `HeldNetwork`."""

    def get_extra_state(self) -> dict[str, Any]:
        """What the state dict holds besides the embedding; to be called between steps."""
        buffers = self._task_buffers
        moved = set(buffers.changed()) | {name for task in buffers.tasks for name in task} | set(buffers.live or ())
        return {
            "version": STATE_VERSION,
            "groups": [[group.name, group.num_units] for group in self.groups],
            "settings": self.settings.saved(),
            "tasks": list(self.tasks),
            "open": [self.task, self._progress.penalty_seen] if self._open else [],
            "step": self._progress.step,
            "steps_per_epoch": self._progress.steps_per_epoch,
            "selected": [] if self._selected is None else [self._selected],
            "masks": self.masks_by_task.to(torch.uint8),
            "earlier": self._trained.names(self._trained.earlier),
            "current": self._trained.names(self._trained.current),
            "initial_buffers": {name: buffers.initial[name].clone() for name in sorted(moved & set(buffers.initial))},
            "task_buffers": [{name: value.clone() for name, value in task.items()} for task in buffers.tasks],
            "live_buffers": [] if buffers.live is None else [dict(buffers.live)],
            "generator": [] if self.generator is None else [self.generator.get_state()],
            "extra": self._extra_state(),
        }

    def _checked_state(self, state: Any) -> tuple[dict[str, Any], Any]:
        checked = checked_state(state, self.layout, self.settings.saved(), self.embedding)
        self._task_buffers.check([checked["initial_buffers"], *checked["task_buffers"], *checked["live_buffers"]])
        generators = [] if self.generator is None else [self.generator]
        if len(checked["generator"]) != len(generators):
            raise ValueError("state_dict and this HAT must both have a generator, or neither")
        checked["generator"] = [
            random_state(own)(Entry("generator"), each)
            for own, each in zip(generators, checked["generator"], strict=True)
        ]
        return checked, self._checked_extra_state(checked["extra"])

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Check the whole state before anything is loaded."""
        self._require_not_closed()
        extra, embedding = state_dict.get(f"{prefix}_extra_state"), state_dict.get(f"{prefix}embedding")
        if extra is not None:
            self._checked_state(extra)
            tensor(self.embedding.detach())(Entry("embedding"), embedding)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Also copy the embedding, which later steps change."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not keep_vars:
            destination[f"{prefix}embedding"] = destination[f"{prefix}embedding"].clone()

    @torch.no_grad()
    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Load what `get_extra_state` returned; the network's own state must be loaded, too."""
        checked, extra = self._checked_state(state)
        was_open, self.tasks = self._open, checked["tasks"]
        masks = checked["masks"].bool()
        self.masks_by_task = masks
        self.counts = masks.to(self.counts.dtype).sum(0)
        self.cumulative = (self.counts > 0).to(self.cumulative.dtype)
        self._open = bool(checked["open"])
        self.task, penalty_seen = checked["open"] or (None, False)
        self._progress = Progress(checked["step"], checked["steps_per_epoch"], penalty_seen)
        self._selected = next(iter(checked["selected"]), None)
        self._coverage = self._find_coverage()
        self._trained.follow(self._coverage.parameters, new=False)
        self._trained.load(checked["earlier"], checked["current"])
        self._task_buffers.load(checked["initial_buffers"], checked["task_buffers"], checked["live_buffers"])
        for own, each in zip([self.generator], checked["generator"], strict=False):
            assert own is not None
            own.set_state(each)
        self._load_extra_state(extra)
        self._protection.forget()
        if self._conditioning is not None:
            self._conditioning.remove()
            self._conditioning = None
        if self._open:
            self._trained.watch()
            self._start()
        elif was_open:
            self._trained.unwatch()
            for each in self._optimizers:
                each.deactivate()
        self._set_in_force()

    def resume(self, optimizer: Optimizer) -> None:
        """Go on with the open task, whose state was loaded, with an optimizer; then load the optimizer's state.

        It also puts another optimizer into the place of the one that the task has.

        Args:
            optimizer: as for `begin`.

        Raises:
            RuntimeError: no task is open, or this is its optimizer.
        """
        self._require_open("resume")
        present = self._optimizers[-1] if self._optimizers and self._optimizers[-1].active else None
        if present is not None and present.optimizer is unwrap_optimizer(optimizer):
            raise RuntimeError(f"task {self.task!r} has this optimizer; resume() is for a state that was loaded")
        check_optimizer(optimizer, self._coverage.parameters, self.embedding)
        add_embedding(optimizer, self.embedding)
        if present is not None:
            present.deactivate()
        self._hang_on_optimizer(optimizer)
        self._set_in_force()

    def parameter_group(self, optimizer: Optimizer) -> dict[str, Any]:
        """Hook of learners: the group with the embedding that `begin` gives the optimizer."""
        return embedding_group(optimizer, self.embedding)

    def after_load(self, optimizer: Optimizer) -> None:
        """Hook of learners: go on with the open task; between tasks the optimizer refuses to step."""
        own = unwrap_optimizer(optimizer)
        if self._open:
            if not (self._can_train() and self._optimizers[-1].optimizer is own):
                self.resume(optimizer)
        elif not self.tasks:
            self._leave_optimizer(own)
        elif all(each.optimizer is not own for each in self._optimizers):
            self._hang_on_optimizer(optimizer, active=False)

    def _extra_state(self) -> dict[str, Any]:
        """More entries of the saved state: tensors and plain values."""
        return {}

    def _checked_extra_state(self, state: Mapping[str, Any]) -> Any:
        """Check such entries, changing nothing; the result goes to `_load_extra_state`."""
        return state

    def _load_extra_state(self, state: Any) -> None:
        """Load checked entries."""

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._set_in_force()
        if self._open:
            self._start()
        return result

    def __getstate__(self) -> dict[str, Any]:
        optimizers = [each.optimizer for each in self._optimizers if each.active]
        dropped = dict.fromkeys(("_gates", "_binary", "_conditioning", "_sparsity", "_gate_kernel"))
        state = {name: value for name, value in self.__dict__.items() if name not in dropped}
        return {**state, "_optimizers": optimizers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        optimizers: Any = self._optimizers
        self._optimizers = []
        self._conditioning = self._gate_kernel = None
        if self._closed:
            return
        self._hang()
        self._trained.is_training = self._is_training
        self._protection.forget()
        if self._open:
            for each in optimizers:
                self._hang_on_optimizer(each)
            self._trained.watch()
            self._start()
        self._set_in_force()
