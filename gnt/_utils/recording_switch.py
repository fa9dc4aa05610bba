"""A switch that pauses the recording of features, for forwards that gnt itself runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class _Switch(threading.local):
    """Per thread, so that a measurement in one thread does not pause the recording of a training in another."""

    pauses = 0  # number of `pause_recording` contexts that are active in this thread


switch = _Switch()


def is_paused() -> bool:
    """True inside `pause_recording` of this thread."""
    return switch.pauses > 0


@contextlib.contextmanager
def pause_recording() -> Iterator[None]:
    """Record no features of any forward of this thread inside this context; contexts may be nested."""
    switch.pauses += 1
    try:
        yield
    finally:
        switch.pauses -= 1
