"""The file name of a command's picture: what was compared, in words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from . import experiments
from .run_plan import RunPlan

_LONGEST = 100  # characters; file systems allow 255 bytes


def picture_name(plan: RunPlan) -> str:
    """The name without its ending: size, settings that were given, methods and seeds.

    It ends with a hash only where it was cut, or has lost characters that differ between plans.

    >>> plan = RunPlan("random_label_mnist", ("backprop", "l2"), None, {"lr": 0.01}, {}, (0, 1, 2))
    >>> picture_name(plan)
    'quick_lr-0.01_backprop+l2_seeds-0-to-2'
    >>> picture_name(RunPlan("random_label_mnist", ("l2",), "published", {}, {"lr": [0.01, 0.1]}, (3,)))
    'published_lr-0.01+0.1_l2_seed-3'
    """
    cls = experiments.settings_class(plan.experiment)
    given = [f"{name}-{value}" for name, value in sorted(plan.given.items())]
    given += [f"{name}-{'+'.join(map(str, values))}" for name, values in sorted(plan.grid.items())]
    methods = "all-methods" if set(plan.methods) == set(cls.methods) else "+".join(plan.methods)
    parts = [plan.size or cls.size_names()[0], *given, methods, _seeds(plan.seeds)]
    full = [part.replace("_", "-") for part in parts]
    text = "_".join(re.sub(r"[^A-Za-z0-9.+-]+", "-", part) for part in full)
    if len(text) <= _LONGEST and text == "_".join(full):
        return text
    digest = hashlib.sha256("_".join(full).encode()).hexdigest()[:8]
    return f"{text[: _LONGEST - 9]}_{digest}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed-{seeds[0]}" if len(seeds) == 1 else f"seeds-{seeds[0]}-to-{seeds[-1]}"
