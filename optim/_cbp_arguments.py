"""What a CBP optimizer is made from: which parameters it holds, and which units its engine watches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from gnt.units import trace, unwrap

Patterns = str | Sequence[str] | None

WAYS_OUT = (
    "To have the units of any model found, give example_inputs=, the inputs of one forward; or list the layers in the "
    "order of computation: layers=[...]"
)


def parameters(net: Any, params: ParamsT | None, layers: Any, kind: str) -> ParamsT:
    """What the optimizer holds: ``params``, or the parameters of ``net``, or ``net`` itself where it is no network.

    Trainers that sort parameters into groups themselves call the optimizer's class with these groups.
    """
    if isinstance(net, nn.Module):
        return net.parameters() if params is None else params
    if layers is None:
        raise TypeError(
            f"{kind} is made from the network, got {type(net).__name__}: {kind}(net, lr=...), with params=[{{...}}, "
            f"...] for parameter groups; or {kind}(parameters, lr=..., layers=...), with the layers or unit groups "
            "that these parameters belong to"
        )
    if params is not None:
        raise TypeError(f"params would stand beside the {type(net).__name__} given first: give one of them")
    held: ParamsT = net
    return held


def units(net: Any, layers: Any, example_inputs: Any, choice: Mapping[str, Any]) -> Any:
    """What the engine watches: what ``layers`` says, what tracing finds, or else ``net``, to be walked.

    Args:
        net: the network.
        layers: as given.
        example_inputs: as given.
        choice: further arguments of `gnt.trace`; those that are not None need ``example_inputs``.
    """
    given = {name: value for name, value in choice.items() if value is not None}
    if layers is not None:
        more = {"example_inputs": example_inputs} if example_inputs is not None else {}
        _refuse("layers tells the units already", [*more, *given])
        return layers
    if example_inputs is None:
        _refuse("they choose among units found by example_inputs, which is not given", given)
        return unwrap(net)
    args, kwargs = _arguments(example_inputs)
    clash = [name for name in kwargs if name in ("model", "include", "exclude", "activation")]
    if clash:
        raise TypeError(
            f"example_inputs holds {', '.join(clash)}, which gnt.trace takes for itself: give the inputs as a tuple, "
            "in the order of the network's forward"
        )
    return trace(net, *args, **given, **kwargs)


def _refuse(why: str, names: Collection[str]) -> None:
    if names:
        raise TypeError(f"{' and '.join(names)} would be ignored: {why}")


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
