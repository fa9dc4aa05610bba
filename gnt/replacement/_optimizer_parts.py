"""The state of an optimizer, and of optimizers inside it, with the initial values of its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

from torch import Tensor
from torch.optim import Optimizer

from gnt.replacement._optimizer_registry import resets_of
from gnt.replacement._optimizer_reset_table import PARAMETER, SHARED, InitialValue
from gnt.replacement._state_structure import Path, find_entry, inner_optimizers, views_like, walk_state


class OptimizerPart(NamedTuple):
    """The state of one optimizer; of several, where a wrapper shares the state of the optimizer inside it."""

    optimizers: list[Optimizer]
    state: Mapping[Tensor, Any]
    table: Mapping[str, InitialValue] | None  # None: the optimizer resets its own state

    @property
    def name(self) -> str:
        return type(self.optimizers[0]).__name__

    def initial(self, param: Tensor, path: Path) -> InitialValue:
        """The initial value of a tensor of the state: a number, PARAMETER or SHARED."""
        initial = cast(Mapping[str, InitialValue], self.table)[find_entry(path, self.table or {})]
        if not isinstance(initial, str):
            return initial
        groups = (g for optimizer in self.optimizers for g in optimizer.param_groups if initial in g)
        return float(next(g for g in groups if any(p is param for p in g["params"]))[initial])

    def views(self, param: Tensor, path: Path, value: Tensor) -> list[Tensor] | None:
        """A tensor of the state as tensors of the parameter's shape that share its memory.

        An empty list: it has no part per unit. None: it is not known how the parts of the units are reset.
        """
        if value.ndim == 0 or value is param:
            return []
        entry = find_entry(path, self.table or {})
        if entry is None:
            return None
        return [] if (self.table or {})[entry] is SHARED else views_like(value, param) or None

    def tensors(self, param: Tensor) -> Iterator[tuple[Path, Tensor]]:
        """The state that is listed in the table, as tensors of the parameter's shape."""
        for path, value in walk_state(self.state.get(param)):
            if isinstance(value, Tensor):
                yield from ((path, view) for view in self.views(param, path, value) or ())

    def expand_copies(self, param: Tensor) -> None:
        """Give copies of the parameter that are kept as one number (prodigyopt, for zeros) one for each element."""
        state = self.state.get(param)
        if isinstance(state, dict):
            for key, value in state.items():
                if (self.table or {}).get(key) is PARAMETER and isinstance(value, Tensor) and value.ndim == 0:
                    state[key] = value.expand(param.numel()).clone()


def optimizer_parts(optimizer: Optimizer, own_method: str) -> list[OptimizerPart]:
    """The optimizer's state, then that of the optimizers inside it.

    Args:
        optimizer: the optimizer.
        own_method: an optimizer with a method of this name resets its own state.

    Raises:
        TypeError: an optimizer whose state is not known.
    """
    if hasattr(optimizer, own_method):
        return [OptimizerPart([optimizer], optimizer.state, None)]
    parts = [OptimizerPart([optimizer], optimizer.state, resets_of(optimizer))]
    for inner in inner_optimizers(optimizer):
        try:
            table = None if hasattr(inner, own_method) else resets_of(inner)
        except TypeError as error:
            raise TypeError(f"{type(optimizer).__name__} holds an optimizer {type(inner).__name__}: {error}") from None
        for i, part in enumerate(parts):
            if part.state is inner.state and part.table is not None and table is not None:
                parts[i] = OptimizerPart([*part.optimizers, inner], part.state, {**table, **part.table})
                break
        else:  # a wrapper may keep some of its state there (timm's Lookahead)
            outer = parts[0].table or {}
            parts.append(OptimizerPart([inner], inner.state, None if table is None else {**outer, **table}))
    return parts
