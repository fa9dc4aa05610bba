"""Models of the zoo, traced once for all tests of a process."""

from __future__ import annotations

import copy
import functools

import gnt
from tests.units.tracing.model_under_test import ModelUnderTest
from tests.units.tracing.model_zoo import CASES


def traced(name: str) -> tuple[ModelUnderTest, gnt.Groups]:
    """A copy of a model of the zoo and of the groups that were found in it; tests may change it."""
    return copy.deepcopy(_traced(name))


@functools.cache
def _traced(name: str) -> tuple[ModelUnderTest, gnt.Groups]:
    case = CASES[name]
    subject = ModelUnderTest(case.build(), case.args, case.kwargs)
    return subject, gnt.trace(subject.model, *subject.args, **subject.kwargs)
