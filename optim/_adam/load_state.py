"""Loading of a state_dict, which is checked first, that keeps step counts exact: torch would cast them like moments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gnt.optim._adam.state import MOMENTS, host_step_count, moment_keys
from gnt.optim._adam.step_counts import START_KEYS
from gnt.optim._options import CheckOptions
from gnt.optim._saved_state import check_entries, check_saved_options, saved_entries
from gnt.optim._validation import checked_starts

_ADAM_ONLY = ("lr", "betas", "eps", "amsgrad")  # options that the groups of every Adam have, but of few others


@contextmanager
def exact_step_counts(optimizer: Optimizer, check: CheckOptions) -> Iterator[None]:
    """Inside this context, ``load_state_dict`` checks the options and loads step counts exactly as they were saved.

    Raises ValueError for the state of another optimizer, for options that are not valid, and for counts that do not fit
    the parameters, before anything is changed.
    """
    counts: dict[Tensor, dict[str, Tensor]] = {}

    def read_counts(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
        check_saved_options(optimizer, state_dict, _ADAM_ONLY, check)
        for param, saved, group in saved_entries(optimizer, state_dict):
            moments = moment_keys(bool(group["amsgrad"]))
            check_entries(optimizer, param, saved, moments, ("step", *MOMENTS[2:], *START_KEYS))
            step = _checked_step(saved)
            counts[param] = {**checked_starts(param, saved, float(step)), "step": step}

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


def _checked_step(saved: dict[str, Any]) -> Tensor:
    step = saved.get("step")
    number = float(step) if isinstance(step, (int, float)) or (isinstance(step, Tensor) and step.numel() == 1) else -1.0
    if not (0 <= number < float("inf") and number == int(number)):
        raise ValueError(f"the loaded state's step must be a whole number >= 0, got {step!r}")
    return host_step_count(number)
