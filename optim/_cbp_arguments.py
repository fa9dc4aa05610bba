"""The arguments of a CBP optimizer: which parameters it optimizes, and which units its engine may replace."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from gnt.units import trace, unwrap

Patterns = str | Sequence[str] | None

WALK_ADVICE = (
    "Pass example_inputs=, the inputs of one forward, to find the units of any model; or list the layers in the order "
    "of computation: layers=[...]"
)


def parameters(net: Any, params: ParamsT | None, layers: Any, kind: str) -> ParamsT:
    """The parameters to optimize: ``params``, or those of ``net``, or ``net`` itself if it is not a module.

    Trainers that build parameter groups themselves call the optimizer's class with these groups in place of ``net``.
    ``kind``: the class name, for errors.
    """
    if isinstance(net, nn.Module):
        if params is not None and not isinstance(params, Iterable):
            raise TypeError(f"params must be parameters or parameter groups of net, got {params!r:.60}")
        return net.parameters() if params is None else params
    if layers is None:
        in_a_policy = (
            f"; in Stable-Baselines3 pass optimizer_class=gnt.integrations.stable_baselines3.{kind}, which finds them"
            if "stable_baselines3" in sys.modules
            else ""
        )
        raise TypeError(
            f"{kind} takes the network first, got {type(net).__name__}. Use {kind}(net, lr=...), with params=[{{...}}, "
            f"...] for parameter groups; or {kind}(parameters, lr=..., layers=...), with the layers or unit groups "
            f"of these parameters{in_a_policy}"
        )
    if params is not None:
        raise TypeError(
            f"params was given in addition to parameters as the first argument, a {type(net).__name__}: pass only one"
        )
    given: ParamsT = net
    return given


def units(net: Any, layers: Any, example_inputs: Any, examples: Any, trace_options: Mapping[str, Any]) -> Any:
    """The layers or unit groups for the engine: ``layers``, or what `gnt.trace` finds, or ``net`` to be walked.

    Args:
        net: the network.
        layers: as given to the optimizer.
        example_inputs, examples: as given to the optimizer.
        trace_options: further arguments of `gnt.trace`; those that are not None need one of these.
    """
    given = {name: value for name, value in trace_options.items() if value is not None}
    if layers is not None:
        inputs = {"example_inputs": example_inputs, "examples": examples}
        more = [name for name, value in inputs.items() if value is not None]
        _refuse_unused("layers already selects the units", [*more, *given])
        return layers
    if examples is not None:
        if example_inputs is not None:
            raise TypeError("example_inputs and examples were both given: put all inputs into examples=[...]")
        return trace(net, examples=examples, **given)
    if example_inputs is None:
        _refuse_unused("they select among units found by example_inputs, which is not given", given)
        return unwrap(net)
    args, kwargs = _arguments(example_inputs)
    clash = [name for name in kwargs if name in ("model", "include", "exclude", "activation", "examples", "modes")]
    if clash:
        raise TypeError(
            f"example_inputs contains {', '.join(clash)}, an argument of gnt.trace itself: pass the inputs as a tuple, "
            "in the order of the network's forward"
        )
    return trace(net, *args, **given, **kwargs)


def _refuse_unused(reason: str, names: Collection[str]) -> None:
    if names:
        raise TypeError(f"{' and '.join(names)} would be ignored: {reason}")


def _arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of one forward."""
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), {str(name): value for name, value in example.items()}
    if isinstance(example, (tuple, list)):
        return tuple(example), {}
    raise TypeError(
        "example_inputs must be a tensor, a tuple or list of positional arguments, or a dict of keyword arguments, of "
        f"one forward of the network; got {type(example).__name__}"
    )
