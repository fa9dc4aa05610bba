"""Cases, traced once for all tests of a run."""

from __future__ import annotations

import copy
import functools

import gnt
from tests.units.tracing.model_zoo import CASES
from tests.units.tracing.subjects import Subject


def traced(name: str) -> tuple[Subject, gnt.Groups]:
    """A model of the zoo with the groups that were found in it; a copy, to be changed as one likes."""
    return copy.deepcopy(_traced(name))


@functools.cache
def _traced(name: str) -> tuple[Subject, gnt.Groups]:
    case = CASES[name]
    subject = Subject(case.build(), case.args, case.kwargs)
    return subject, gnt.trace(subject.model, *subject.args, **subject.kwargs)
