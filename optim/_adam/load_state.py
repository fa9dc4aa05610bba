"""Loading a state_dict without harm to the step counts, which torch would cast like moments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gnt.optim import _validation as checks
from gnt.optim._adam import state as adam_state
from gnt.optim._adam import step_counts as unit_counts


@contextmanager
def whole_counts(optimizer: Optimizer) -> Iterator[None]:
    """While this lasts, ``optimizer.load_state_dict`` takes counts as they were saved.

    Raises ValueError for counts that do not fit the parameters, before anything is changed.
    """
    counts: dict[Tensor, dict[str, Tensor]] = {}

    def keep(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
        held = chain.from_iterable(group["params"] for group in optimizer.param_groups)
        saved_ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        for param, saved_id in zip(held, saved_ids, strict=False):
            saved = state_dict["state"].get(saved_id)
            if saved:
                counts[param] = {
                    **checks.checked_starts(param, saved),
                    "step": adam_state.host_step(saved["step"]),
                }

    def put_back(optimizer: Optimizer) -> None:
        for param, kept in counts.items():
            state = optimizer.state[param]
            for key in unit_counts.START_KEYS:
                state.pop(key, None)
            state.update(kept)

    # The first runs after the user's hooks, which may rewrite the state_dict; the second before theirs.
    hooks = (
        optimizer.register_load_state_dict_pre_hook(keep),
        optimizer.register_load_state_dict_post_hook(put_back, prepend=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
