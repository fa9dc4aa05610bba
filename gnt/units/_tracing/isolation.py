"""Running a user's forward for our own purposes, and leaving everything of the model as it was."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution

from gnt._utils.recording import pause_recording

_CONTAINERS = (list, dict, set, OrderedDict)


@contextlib.contextmanager
def preserve_model(model: nn.Module) -> Iterator[None]:
    """Whatever a forward writes into the modules of ``model``, their attributes and flags are put back at the end.

    The values of tensors are not looked after (a traced forward works on fakes of them), random generators of the
    CPU are. No engine records features meanwhile, and distributions do not ask whether their parameters are in range.
    """
    saved = [(module, _contents(vars(module))) for module in model.modules()]
    with torch.random.fork_rng(devices=[]), pause_recording(), _unvalidated():
        try:
            yield
        finally:
            for module, contents in saved:
                _put_back(vars(module), contents)


@contextlib.contextmanager
def _unvalidated() -> Iterator[None]:
    """Meanwhile torch's distributions take any parameters: a policy that samples its actions could not be traced."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def _contents(values: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Each attribute, and where it is a plain container a copy of what it holds."""
    return {key: (value, value.copy() if type(value) in _CONTAINERS else None) for key, value in values.items()}


def _put_back(values: dict[str, Any], contents: dict[str, tuple[Any, Any]]) -> None:
    for key in [key for key in values if key not in contents]:
        del values[key]
    for key, (value, held) in contents.items():
        values[key] = value
        if held is not None:
            value.clear()
            value.extend(held) if isinstance(value, list) else value.update(held)
