"""Registration of hooks on an optimizer that act around its steps and save state in its ``state_dict``."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

Hook = Callable[..., Any]


def register_hooks(
    optimizer: Optimizer, *, before_step: Hook, after_step: Hook, save: Hook, check: Hook, load: Hook
) -> list[RemovableHandle]:
    """Register hooks around steps, and for state saved with the optimizer's; ``check`` is called before ``load``."""
    require_hooks(optimizer)
    return [
        optimizer.register_step_pre_hook(before_step),
        optimizer.register_step_post_hook(after_step),
        optimizer.register_state_dict_post_hook(save),
        optimizer.register_load_state_dict_pre_hook(check),
        optimizer.register_load_state_dict_post_hook(load),
    ]


def require_hooks(optimizer: Optimizer) -> None:
    """Raise TypeError for an optimizer that takes no hooks, as wrappers that do not call ``Optimizer.__init__``."""
    kinds = ("step_pre", "step_post", "state_dict_post", "load_state_dict_pre", "load_state_dict_post")
    missing = [kind for kind in kinds if not hasattr(optimizer, f"_optimizer_{kind}_hooks")]
    if missing:
        name = type(optimizer).__name__
        raise TypeError(
            f"cannot attach to {name}: it takes no {missing[0]} hooks, since it does not call Optimizer.__init__. "
            f"Without attach(), call step() after each step of the {name}, and save the state_dict beside its own"
        )


def unused_key(base: str, used: Collection[str]) -> str:
    """The first of ``base``, ``base_1``, ``base_2``, ... that is not used.

    >>> unused_key("gnt", {"gnt", "gnt_1"})
    'gnt_2'
    """
    candidates = (base, *(f"{base}_{i}" for i in range(1, len(used) + 1)))
    return next(key for key in candidates if key not in used)
