"""`preserve_model`: run a user's forward and restore the model afterwards."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution

from gnt._utils.recording_switch import pause_recording

_CONTAINERS = (list, dict, set, OrderedDict)


@contextlib.contextmanager
def preserve_model(model: nn.Module) -> Iterator[None]:
    """Context manager that restores the attributes, flags and submodules of ``model`` on exit.

    The state of the CPU random generator is restored too. Values of tensors are not (a traced forward works on fake
    tensors). Inside the context no engine records features, and distributions do not validate their parameters.
    """
    saved = [(module, _copy_attributes(vars(module))) for module in model.modules()]
    with torch.random.fork_rng(devices=[]), pause_recording(), _without_distribution_validation():
        try:
            yield
        finally:
            for module, contents in saved:
                _restore(vars(module), contents)


@contextlib.contextmanager
def _without_distribution_validation() -> Iterator[None]:
    """Turn off the data-dependent argument checks of distributions, with which a sampling policy cannot be traced."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def _copy_attributes(values: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Each attribute with a copy of its content if it is a plain container, otherwise with None."""
    return {key: (value, value.copy() if type(value) in _CONTAINERS else None) for key, value in values.items()}


def _restore(values: dict[str, Any], contents: dict[str, tuple[Any, Any]]) -> None:
    for key in [key for key in values if key not in contents]:
        del values[key]
    for key, (value, content) in contents.items():
        values[key] = value
        if content is not None:
            value.clear()
            value.extend(content) if isinstance(value, list) else value.update(content)
