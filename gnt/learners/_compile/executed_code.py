"""ExecutedCode: which Python code ran in a step, so that the values it reads can be found."""

from __future__ import annotations

import contextlib
import dis
import gc
import sys
from collections.abc import Iterator, Mapping
from types import CodeType, FrameType
from typing import Any

_LIBRARIES = frozenset({"gnt", "torch", "numpy", "typing_extensions", *sys.stdlib_module_names})

# their names say nothing about forward and loss
_NOT_READING = ("gnt.", *(f"torch.optim.{name}" for name in ("optimizer", "sgd", "adam", "_functional")))


def is_users(module_name: Any) -> bool:
    """True for the name of a module that belongs neither to gnt, torch or NumPy nor to Python."""
    if not isinstance(module_name, str) or module_name.startswith("namedtuple_"):
        return False
    return module_name.partition(".")[0] not in _LIBRARIES


class ExecutedCode:
    """The code objects that ran inside `recording`.

    Attributes:
        names: names of attributes that they read or write, and string constants, which may be names for ``getattr``.
        users: those that belong to the user, with their global variables.

    >>> code = ExecutedCode()
    >>> with code.recording():
    ...     print("ran")
    ran
    >>> code.users
    {}
    """

    def __init__(self) -> None:
        self._codes: dict[CodeType, dict[str, Any]] = {}
        self.names: set[str] = set()
        self.users: dict[CodeType, dict[str, Any]] = {}

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record the code that runs in this thread inside the context.

        The garbage collector is off meanwhile: its callbacks are no part of a step.
        """
        # a profiler that is in use stays in use; a tracer in use would miss this step
        hooks: Any = sys
        kind = "trace" if sys.getprofile() is not None else "profile"
        start, before = getattr(hooks, f"set{kind}"), getattr(hooks, f"get{kind}")()
        collects = gc.isenabled()
        gc.disable()
        start(self._note)
        try:
            yield
        finally:
            start(before)
            if collects:
                gc.enable()
            self._sort()

    def _note(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            self._codes.setdefault(frame.f_code, frame.f_globals)

    def _sort(self) -> None:
        for code, variables in self._codes.items():
            module_name = str(variables.get("__name__"))
            if not module_name.startswith(_NOT_READING):
                self.names.update(code.co_names, [each for each in code.co_consts if isinstance(each, str)])
            if is_users(module_name):
                self.users[code] = variables

    def globals_read(self) -> Iterator[tuple[Mapping[str, Any], str]]:
        """The global variables that the user's code reads or writes: the globals of a module, and a name."""
        for code, variables in self.users.items():
            for name in {i.argval for i in dis.get_instructions(code) if i.opname in _GLOBAL_OPERATIONS}:
                if name in variables:
                    yield variables, name


_GLOBAL_OPERATIONS = ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL")
