"""What to tell of a model that cannot be traced: which call it was, why, and how to go on without trace."""

from __future__ import annotations

import copy
import inspect
import os
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from gnt._utils.recording import pause_recording
from gnt.units._passthrough import WalkError

BY_HAND = (
    "To give groups by hand: gnt.GnT takes a list of layers in the order of computation, such as "
    "gnt.GnT([model.fc1, torch.relu, model.fc2], optimizer), or a list of gnt.UnitGroup, each built of gnt.units.Slot."
)
_HERE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_TORCH = os.path.dirname(os.path.abspath(torch.__file__))


class TraceError(WalkError):
    """A model that cannot be traced, or in which no unit can be replaced; the message says where and why."""


def check_call(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse example inputs that the model's signature does not take, and models that are not ready."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(f"{type(model).__name__} is made by torch.jit: give the module that it was made from")
    lazy = [name for name, p in model.named_parameters() if isinstance(p, UninitializedParameter)]
    if lazy:
        raise TraceError(f"{lazy[0]!r} is lazy and has no weights yet: run one forward before tracing")
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        what = "the example inputs do not fit" if args or kwargs else "trace needs example inputs for"
        raise TraceError(f"{what} {type(model).__name__}.forward{signature}: {error}") from None


def explain(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception) -> TraceError:
    """The error for a forward that torch.export did not take: the inputs' fault, or the model's."""
    kind = type(model).__name__
    own = _try(model, args, kwargs)
    if own is not None:
        return TraceError(
            f"the example inputs do not fit {kind}.forward{inspect.signature(model.forward)}: {told(own)}{_call(own)}"
        )
    hint = "\nA model without its cache can: pass use_cache=False." if "cache_utils" in str(error) else ""
    return TraceError(f"{kind} cannot be traced by torch.export: {told(error)}{_call(error)}{hint}\n{BY_HAND}")


def told(error: Exception) -> str:
    """The part of an error's message that says what is wrong."""
    text = str(error).strip()
    for noise in (
        "\n\nconsider using",
        "\n\n\nCaused by",
        "\nCaused by",
        "\nFor more information",
        "\n\nThe error above",
    ):
        text = text.partition(noise)[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _call(error: Exception) -> str:
    """The innermost line of an error that is neither torch's nor ours."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = os.path.abspath(frame.filename)
        if not path.startswith((_HERE + os.sep, _TORCH + os.sep)) and not frame.filename.startswith("<"):
            return f"\n  in {frame.name}, {frame.filename}:{frame.lineno}: {frame.line}"
    return ""


def _try(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Exception | None:
    """What a forward without trace raises, in evaluation mode, on a copy."""
    try:
        model, args, kwargs = copy.deepcopy((model, tuple(args), dict(kwargs)))
    except Exception:
        return None
    with torch.no_grad(), pause_recording(), torch.random.fork_rng(devices=[]):
        try:
            model.eval()(*args, **kwargs)
        except Exception as error:
            return error
    return None
