"""Loading of a state_dict that keeps step counts exact: torch would cast them like moments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gnt.optim._adam.state import host_step_count
from gnt.optim._adam.step_counts import START_KEYS
from gnt.optim._validation import checked_starts


@contextmanager
def exact_step_counts(optimizer: Optimizer) -> Iterator[None]:
    """Inside this context, ``optimizer.load_state_dict`` loads step counts exactly as they were saved.

    Raises ValueError for counts that do not fit the parameters, before anything is changed.
    """
    counts: dict[Tensor, dict[str, Tensor]] = {}

    def read_counts(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
        params = chain.from_iterable(group["params"] for group in optimizer.param_groups)
        saved_ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        for param, saved_id in zip(params, saved_ids, strict=False):
            saved = state_dict["state"].get(saved_id)
            if saved:
                counts[param] = {**checked_starts(param, saved), "step": host_step_count(saved["step"])}

    def write_counts(optimizer: Optimizer) -> None:
        for param, exact in counts.items():
            state = optimizer.state[param]
            for key in START_KEYS:
                state.pop(key, None)
            state.update(exact)

    # the user's hooks may change the state_dict and look at the result: read after them, write before them
    hooks = (
        optimizer.register_load_state_dict_pre_hook(read_counts),
        optimizer.register_load_state_dict_post_hook(write_counts, prepend=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
