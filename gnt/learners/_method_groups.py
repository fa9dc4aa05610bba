"""`MethodGroups`: groups of methods' own parameters in a learner's optimizer, which a saved state has or has not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

from gnt.replacement import unwrap_optimizer


class MethodGroups:
    """Adds and removes groups of parameters, so that the optimizer has as many as one that was saved.

    Groups of methods are behind those of the network, because an optimizer gets them when a task begins.

    Args:
        optimizer: the learner's.
        methods: those that have `parameter_group`, in the order in which tasks of them begin.
    """

    def __init__(self, optimizer: Optimizer, methods: Iterable[Any]) -> None:
        self._optimizer = unwrap_optimizer(optimizer)
        self._before = list(self._optimizer.param_groups)
        self._methods = tuple(methods)

    def fit(self, saved: Any) -> None:
        """Add or remove groups, for the saved state of an optimizer; anything else is left to its own checks."""
        groups = saved.get("param_groups") if isinstance(saved, dict) else None
        if not self._methods or not isinstance(groups, (list, tuple)):
            return
        own = [each.parameter_group(self._optimizer) for each in self._methods]
        for group in own:
            if len(self._optimizer.param_groups) < len(groups) and not self._held().intersection(_ids(group)):
                self._optimizer.add_param_group(group)
        names = [_ids(group) for group in own]
        while len(self._optimizer.param_groups) > len(groups) and _ids(self._optimizer.param_groups[-1]) in names:
            for parameter in self._optimizer.param_groups.pop()["params"]:
                self._optimizer.state.pop(parameter, None)

    def restore(self) -> None:
        """Let the optimizer have the groups that it had at construction; its state must be loaded afterwards."""
        if self._methods:
            self._optimizer.param_groups[:] = self._before

    def _held(self) -> set[int]:
        return {each for group in self._optimizer.param_groups for each in _ids(group)}


def _ids(group: dict[str, Any]) -> tuple[int, ...]:
    """The identities of a group's parameters, which may have names."""
    return tuple(id(each[1] if isinstance(each, tuple) else each) for each in group["params"])
