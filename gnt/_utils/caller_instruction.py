"""What the caller of a function is about to do with its result, for errors that say what to write instead."""

from __future__ import annotations

import dis
from types import FrameType
from typing import Final

_IMPORT_FROM: Final = dis.opmap["IMPORT_FROM"]
_UNPACK_SEQUENCE: Final = dis.opmap["UNPACK_SEQUENCE"]


def imports_from(frame: FrameType) -> bool:
    """Whether the frame executes ``from module import name``.

    >>> import sys
    >>> imports_from(sys._getframe())
    False
    """
    return frame.f_lasti >= 0 and frame.f_code.co_code[frame.f_lasti] == _IMPORT_FROM


def number_of_targets(frame: FrameType) -> int:
    """The number of names in an assignment ``a, b = ...`` that the frame executes; 0 if it does something else."""
    code, at = frame.f_code.co_code, frame.f_lasti
    return code[at + 1] if at >= 0 and code[at] == _UNPACK_SEQUENCE else 0
