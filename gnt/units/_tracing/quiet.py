"""`quiet`: run torch.export without what it prints and logs; it raises its errors, too."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Context manager that drops what this thread writes to stderr or logs by torch's loggers, and all warnings.

    Messages of other threads, and of other loggers, are not affected.
    """
    rejects = _TorchRecords(threading.get_ident())
    handlers = _handlers()
    stderr = _OtherThreads(sys.stderr)
    with warnings.catch_warnings(), contextlib.redirect_stderr(stderr):
        warnings.simplefilter("ignore")
        for handler in handlers:
            handler.addFilter(rejects)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(rejects)


def _handlers() -> list[logging.Handler]:
    """All handlers that may receive a record of a logger of torch."""
    loggers: list[logging.Logger] = [logging.root]
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.partition(".")[0] == "torch" and isinstance(logger, logging.Logger):
            loggers.append(logger)
    found = [handler for logger in loggers for handler in logger.handlers]
    return list(dict.fromkeys([*found, *([logging.lastResort] if logging.lastResort is not None else [])]))


class _TorchRecords(logging.Filter):
    """Rejects the records of torch's loggers that come from one thread."""

    def __init__(self, thread: int) -> None:
        super().__init__()
        self._thread = thread

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name.partition(".")[0] != "torch" or threading.get_ident() != self._thread


class _OtherThreads:
    """A stream that writes to ``stream`` what other threads write, and drops what the current one does."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        """Write to the stream, unless the thread is the one that created this object."""
        if self._stream is not None and threading.get_ident() != self._thread:
            self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
