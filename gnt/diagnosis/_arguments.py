"""Checks of the arguments of `plasticity_check`."""

from __future__ import annotations

import copy
from typing import Any, get_args

import numpy as np
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from gnt._utils.validation import check_positive
from gnt.diagnosis._fresh import FRESH
from gnt.distributed import dtensor
from gnt.learners import find_loss
from gnt.names import PlasticityMeasure
from gnt.units import unwrap

MEASURES = get_args(PlasticityMeasure)


def check_settings(
    loss: Any = None,
    steps: Any = 1,
    fresh: Any = "data",
    seeds: Any = 2,
    batches: Any = None,
    batch_size: Any = 1,
    reinitialize: Any = None,
    head: Any = None,
    measure: Any = None,
    progress: Any = True,
) -> None:
    """Raise TypeError or ValueError for arguments of `plasticity_check` that are wrong for any model.

    ``head`` is checked with the model.
    """
    checked_seeds(seeds)
    check_positive(steps=steps, batch_size=batch_size)
    if batches is not None:
        check_positive(batches=batches)
    if not isinstance(fresh, str) or fresh not in FRESH:
        raise ValueError(f"fresh must be one of {', '.join(map(repr, FRESH))}, got {fresh!r}")
    if measure is not None and (not isinstance(measure, str) or measure not in MEASURES):
        raise ValueError(f"measure must be None or one of {', '.join(map(repr, MEASURES))}, got {measure!r}")
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(f"progress must be True, False or a function, got {progress!r}")
    if reinitialize is not None and not callable(reinitialize):
        raise TypeError(f"reinitialize must be a function or None, got {type(reinitialize).__name__}")
    if loss is not None:
        find_loss(loss)


def checked_seeds(seeds: Any) -> tuple[int, ...]:
    """The seeds, of a number of them or a list. Raises ValueError for less than two, or for other than integers."""
    if isinstance(seeds, (list, tuple, range)):
        numbers = tuple(seeds)
        integers = all(isinstance(each, (int, np.integer)) and not isinstance(each, bool) for each in numbers)
        if not integers or not all(0 <= int(each) < 2**63 for each in numbers):
            raise ValueError(f"seeds must be integers >= 0 and below 2**63, got {seeds!r}")
        numbers = tuple(map(int, numbers))
    else:
        check_positive(seeds=seeds)
        numbers = tuple(range(seeds))
    if len(set(numbers)) < 2 or len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds must be at least two, all different, for an interval, got {seeds!r}")
    return numbers


def checked_model(model: Any) -> nn.Module:
    """The model without its wrappers. Raises TypeError or ValueError for one that cannot be copied and trained."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    inner = unwrap(model)
    parameters: list[tuple[str, Tensor]] = list(inner.named_parameters())
    lazy = [name for name, each in parameters if isinstance(each, UninitializedParameter)]
    if lazy:
        raise ValueError(f"model must have all its weights, {', '.join(lazy)} are lazy: run one forward first")
    if not any(each.requires_grad for _, each in parameters):
        raise ValueError("model must have parameters that require a gradient, got none")
    if any(dtensor.is_dtensor(each) for _, each in parameters):
        raise TypeError("model must not be sharded (DTensor, FSDP2): copies of it could not learn alone")
    try:
        copy.deepcopy(inner)
    except Exception as error:
        raise TypeError(f"model must be one that copy.deepcopy copies, got an error: {error}") from error
    return inner
