"""`sound_groups`: the groups of a small model, after all checks of their consumers and of replacement."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

import gnt
from tests.units.tracing.consumer_checks import check_consumers
from tests.units.tracing.model_under_test import ModelUnderTest
from tests.units.tracing.replacement_checks import check_replacement


def sound_groups(model: nn.Module, *args: Any, gated: Collection[str] | None = frozenset()) -> gnt.Groups:
    """The groups that are found in ``model``, checked in training and evaluation mode; changes the model.

    Args:
        model, args: the model and its example inputs.
        gated: names of the groups whose units are multiplied by values of no unit, or otherwise never constant.
            None: not checked.
    """
    subject = ModelUnderTest(model, args)
    groups = gnt.trace(subject.model, *subject.args)
    for group in groups:
        check_consumers(subject, group)
    check_replacement(subject, groups, gated=gated)
    return groups
