"""Errors of `trace`: which call of the model failed, why, and how to give unit groups by hand."""

from __future__ import annotations

import copy
import inspect
import os
import traceback

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from gnt._utils.recording_switch import pause_recording
from gnt.units._errors import TraceError
from gnt.units._tracing.examples import Example, enlarge
from gnt.units._tracing.quiet import quiet
from gnt.units._tracing.stacked import experts_hint
from gnt.units._tracing.submodules import CountGroups, submodule_advice

MANUAL_GROUPS_HINT = (
    "To give groups by hand: gnt.GnT takes a list of layers in the order of computation, such as "
    "gnt.GnT([model.fc1, torch.relu, model.fc2], optimizer), or a list of gnt.UnitGroup, each made of gnt.units.Slot."
)
# of an internal assertion of torch 2.6; later versions refuse it by themselves
_WRITES_INTO_A_CONSTANT = "mutating a non-functional tensor with a functional tensor is not allowed"
_GNT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_TORCH = os.path.dirname(os.path.abspath(torch.__file__))


def check_inputs(model: nn.Module, example: Example, label: str) -> None:
    """Refuse example inputs that do not fit the model's signature, TorchScript modules, and lazy parameters."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(f"{type(model).__name__} is made by torch.jit: pass the module that it was made from")
    lazy = [name for name, p in model.named_parameters() if isinstance(p, UninitializedParameter)]
    if lazy:
        raise TraceError(f"{lazy[0]!r} is lazy and has no weights yet: run one forward before tracing")
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*example.args, **example.kwargs)
    except TypeError as error:
        given = example.args or example.kwargs
        problem = "the example inputs do not fit" if given else "trace needs example inputs for"
        raise TraceError(f"{label}{problem} {type(model).__name__}.forward{signature}: {error}") from None


def export_error(
    model: nn.Module, example: Example, error: Exception, label: str, count_groups: CountGroups, *, training: bool
) -> TraceError:
    """The error for a failed torch.export; distinguishes wrong inputs from a model that cannot be exported.

    Args:
        model: the model.
        example: the inputs.
        error: what torch.export raised.
        label: "example 2: ", or nothing if there is one example.
        count_groups: the number of groups in a submodule; it is called to find out which of them can be traced.
        training: the mode in which the example is tried.
    """
    kind = type(model).__name__
    eager = _eager_error(model, example, training)
    if eager is not None:
        signature = inspect.signature(model.forward)
        return TraceError(
            f"{label}the example inputs do not fit {kind}.forward{signature}: {short_message(eager)}{_user_line(eager)}"
            + _advice(model, example, training)
        )
    hint = "\nIt can be traced without its cache: pass use_cache=False." if "cache_utils" in str(error) else ""
    hint += experts_hint(model, error)
    cause = f"{short_message(error)}{_user_line(error)}"
    parts = submodule_advice(model, example, count_groups, training=training)
    return TraceError(f"{label}{kind} cannot be traced by torch.export: {cause}{hint}{parts}\n{MANUAL_GROUPS_HINT}")


def mode_error(
    model: nn.Module, example: Example, error: Exception, label: str, count_groups: CountGroups, *, training: bool
) -> TraceError:
    """The error for an example that can be traced in one mode only; ``training`` is the mode that cannot be traced."""
    mode, other = ("training", "evaluation") if training else ("evaluation", "training")
    eager = _eager_error(model, example, training)
    if eager is None:
        advice = f"\nThe example runs in {mode} mode, but torch.export cannot follow it there."
        advice += submodule_advice(model, example, count_groups, training=training)
    else:
        advice = _advice(model, example, training) or (
            f"\nGive an example that runs in {mode} mode: larger inputs, or a batch of two or more."
        )
    return TraceError(
        f"{label}{mode} mode cannot be traced, and layers that read units only in that mode would not be seen: "
        f"{short_message(eager or error)}{_user_line(eager or error)}{advice}\n"
        f"If the network never runs in {mode} mode, or reads units there in no other layers than in {other} mode, pass "
        f"modes={'eval' if training else 'train'!r}."
    )


def _advice(model: nn.Module, example: Example, training: bool) -> str:
    """Which larger example runs in the mode, found by trying; an empty string if none does."""
    mode = "training" if training else "evaluation"
    for batch, space in ((2, 1), (1, 2), (1, 4), (2, 2), (2, 4)):
        larger, shapes = enlarge(example, batch, space)
        if shapes and _eager_error(model, larger, training) is None:
            return f"\nAn example with inputs of shape {shapes} runs in {mode} mode."
    return ""


def short_message(error: Exception) -> str:
    """Type and message of an error, without the hints that torch appends."""
    text = str(error).strip()
    if _WRITES_INTO_A_CONSTANT in text:
        text = "a tensor that is no parameter or buffer is mutated in the forward method: register it as a buffer"
    for appendix in (
        "\n\nconsider using",
        "\n\n\nCaused by",
        "\nCaused by",
        "\nFor more information",
        "\n\nThe error above",
    ):
        text = text.partition(appendix)[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _user_line(error: Exception) -> str:
    """The innermost line of an error's traceback that is neither in torch nor in gnt."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = os.path.abspath(frame.filename)
        if not path.startswith((_GNT + os.sep, _TORCH + os.sep)) and not frame.filename.startswith("<"):
            return f"\n  in {frame.name}, {frame.filename}:{frame.lineno}: {frame.line}"
    return ""


def _eager_error(model: nn.Module, example: Example, training: bool) -> Exception | None:
    """The exception of a normal forward in a mode, on a copy of the model; None if it runs."""
    try:
        model, (args, kwargs) = copy.deepcopy((model, example))
    except Exception:
        return None
    with torch.no_grad(), pause_recording(), torch.random.fork_rng(devices=[]), quiet():
        try:
            model.train(training)(*args, **kwargs)
        except Exception as error:
            return error
    return None
