"""A switch that pauses the recording of features, for forwards that gnt itself runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_pauses = 0


@contextlib.contextmanager
def pause_recording() -> Iterator[None]:
    """Record no features of any forward inside this context; contexts may be nested."""
    global _pauses
    _pauses += 1
    try:
        yield
    finally:
        _pauses -= 1


def recording_paused() -> bool:
    """True inside at least one `pause_recording` context."""
    return _pauses > 0
