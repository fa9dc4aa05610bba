"""A switch that pauses the recording of features, for forwards that gnt itself runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

pauses = 0  # number of `pause_recording` contexts that are active


@contextlib.contextmanager
def pause_recording() -> Iterator[None]:
    """Record no features of any forward inside this context; contexts may be nested."""
    global pauses
    pauses += 1
    try:
        yield
    finally:
        pauses -= 1
