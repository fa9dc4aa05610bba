"""A switch that pauses the recording of features during forward passes that gnt itself runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_pauses = 0


@contextlib.contextmanager
def pause_recording() -> Iterator[None]:
    """Record no features inside this context. Contexts may be nested."""
    global _pauses
    _pauses += 1
    try:
        yield
    finally:
        _pauses -= 1


def recording_paused() -> bool:
    """True inside at least one `pause_recording` context."""
    return _pauses > 0
