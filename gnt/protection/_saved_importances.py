"""`SavedImportances`: what the state dict of an `FGAdaHAT` holds besides that of a `HAT`, and its copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from gnt._utils.state_dicts import Kind, check_entries, counter, equal_to, sequence, tensor
from gnt.protection._attribution_source import AttributionSource
from gnt.protection._importance_source import MeasureSource
from gnt.protection._strategies import Summing
from gnt.protection.hat import HAT


class SavedImportances(HAT):
    """Base class of `FGAdaHAT`, which documents the attributes."""

    importance: str
    summing: Summing
    importances: Tensor
    importance_sum: Tensor
    _measured: list[int]
    _make_source: Callable[..., MeasureSource | AttributionSource]

    def _hang_source(self) -> None:
        self._source = self._make_source(self.model, self.groups, self.process_group)
        self._source.watch(self.embedding)
        self._training_gates: Sequence[Tensor] | None = None

    def _extra_state(self) -> dict[str, Any]:
        return {
            "importance": self.importance,
            "summing": repr(self.summing),
            "importances": self.importances.clone(),
            "sum": self.importance_sum.clone(),
            "measured": list(self._measured),
            "source": self._source.state_dict(),
        }

    def _checked_extra_state(self, state: Mapping[str, Any]) -> Any:
        tasks = state.get("importances")
        number = len(tasks) if isinstance(tasks, Tensor) and tasks.ndim else 0
        kinds: dict[str, Kind] = {
            "importance": self._same("importance", self.importance),
            "summing": self._same("summing", repr(self.summing)),
            "importances": tensor(self.importance_sum.new_zeros(number, self.layout.total)),
            "sum": tensor(self.importance_sum),
            "measured": sequence([counter()] * len(self.groups), f"{len(self.groups)} counts"),
            "source": lambda entry, value: self._source.checked_state(value),
        }
        return check_entries(state, kinds, " for FGAdaHAT")

    @staticmethod
    def _same(name: str, own: str) -> Kind:
        return equal_to(own, lambda saved: f"state_dict is of {name} {saved}, this FGAdaHAT has {own!r}")

    def _load_extra_state(self, state: Any) -> None:
        self.importances, self.importance_sum = state["importances"], state["sum"]
        self._measured = list(state["measured"])
        self._source.load_checked(state["source"])

    def __getstate__(self) -> dict[str, Any]:
        dropped = ("_source", "_training_gates")
        kept = {name: value for name, value in super().__getstate__().items() if name not in dropped}
        return {**kept, "_source_state": self._source.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        source = state.pop("_source_state")
        super().__setstate__(state)
        self._hang_source()
        self._source.load_checked(self._source.checked_state(source))
        if self._closed:
            self._source.close()
