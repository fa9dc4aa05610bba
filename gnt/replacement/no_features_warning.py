"""One warning if optimizer steps go by without a training forward, with the likely cause."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from gnt._utils.stack_level import user_level
from gnt.units import UnitGroup

WARN_AFTER = 100  # optimizer steps in a row


def warn_without_features(groups: Sequence[UnitGroup]) -> None:
    """Warn that no group has had features in the last `WARN_AFTER` optimizer steps."""
    consumers = {id(slot.module): slot for group in groups for slot in group.outgoing}.values()
    in_eval_mode = [slot.name for slot in consumers if not slot.module.training]
    if len(in_eval_mode) == len(consumers):
        why = "the layers that read the units are in evaluation mode, in which nothing is recorded: call net.train()"
    elif in_eval_mode:
        why = (
            f"{_names(in_eval_mode)} are in evaluation mode, in which nothing is recorded, and the other layers that "
            "read the units were not run"
        )
    else:
        why = (
            f"the layers that read the units, {_names([slot.name for slot in consumers])}, were not run in training (a "
            "head that is not used, a layer that was replaced in the network, a copy of the network), or only under "
            "no_grad, by torch.func, or in forwards without a backward. Give the engine all layers that read the "
            "units: gnt.trace takes several example inputs"
        )
    warnings.warn(
        f"gnt has seen no training forward in {WARN_AFTER} optimizer steps, and replaces nothing without; {why}",
        stacklevel=user_level(),
    )


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
