"""`Follower`: the protocol of objects that keep numbers per weight, and the adapter for them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from gnt.units import Slot, UnitGroup


@runtime_checkable
class Follower(Protocol):
    """An object that keeps numbers for each weight of a network, and follows the replacement of units.

    Examples are the anchors of a penalty, importances of weights, and the state of an optimizer. An engine that such an
    object follows (``GnT(..., follow=[obj])`` or ``engine.follow(obj)``) calls it whenever units are replaced. Required
    is `reset_units`. Two further methods are called if the object has them:

    ``check_units(groups)``
        before anything is changed, in each step in which units are replaced, and when the object begins to follow.
        ``groups`` are all `UnitGroup` of the engine. An exception raised here is that of the step, in which no unit is
        replaced: network and optimizer are as after the optimizer's step. A `GnT` has updated ages and averages
        before, and its accumulators are as before the step, so that what was due is due in the next one. `ReDo` and
        `SNR` have not counted the step. The features that were recorded for it are forgotten.
    ``move_bias(bias, change)``
        for the bias of each consumer, after the mean contribution of the replaced units has moved into it. ``change``
        has the shape of ``bias`` and is what was added; it is 0 where the bias itself belongs to a replaced unit, and
        in entries that a `Protector` does not let move.

    First `move_bias` is called for all biases, then `reset_units` for all slices; the weights have their new values in
    both. Parameters that are frozen (``requires_grad=False``) are not changed by a replacement, and neither method is
    called for them. Methods are called without grad; an exception in `move_bias` or `reset_units` cannot undo the
    replacement, so whatever can be refused should be refused in ``check_units``.

    If the object has ``parameters``, a list of tensors or a method that returns them, one of them must be a parameter
    of the engine's units. ``followed_parameters`` takes its place in modules, whose parameters are others.

    >>> import torch, gnt
    >>> class Snapshot:
    ...     '''Keeps a copy of the weights, in which replaced units are always the new ones.'''
    ...     def __init__(self, net):
    ...         self.copies = {param: param.detach().clone() for param in net.parameters()}
    ...     def reset_units(self, param, dim, index, groups=1):
    ...         gnt.units.copy_slices(self.copies[param], param, dim, index, groups)
    ...     def move_bias(self, bias, change):
    ...         self.copies[bias] += change
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> snapshot = Snapshot(net)
    >>> engine = gnt.GnT(net, follow=[snapshot])
    >>> engine.replace([torch.tensor([3])])
    >>> torch.equal(snapshot.copies[net[0].weight], net[0].weight)
    True
    """

    def reset_units(self, param: Tensor, dim: int, index: Tensor, groups: int = 1) -> None:
        """Set what is kept for slices of a parameter to the values of a new unit.

        Called for every parameter of which a replaced unit owns a part: rows of the producers' weights and biases,
        entries of norms between producer and consumers, columns of the consumers' weights. A parameter that the object
        does not keep numbers for is to be ignored.

        Args:
            param: the parameter, with its new values.
            dim: the dimension of ``param`` along which the units are: 0 for rows and 1-d parameters, 1 for columns; the
                other way round in layers that store their weight as (in, out). For the parameters of a norm it may be
                another one, as for (1, 1, 1, units).
            index: positions along ``dim``, int64 on the device of ``param``.
            groups: for the weight (out, in / groups, *kernel) of a grouped convolution and dim 1, its number of groups;
                ``index`` then contains input channels 0..in-1. `gnt.units.copy_slices` and `gnt.units.fill_slices`
                take these arguments.
        """


class ObjectAdapter:
    """An object with the methods of `Follower`.

    Raises:
        TypeError: ``reset_units`` does not take the arguments of the protocol.
    """

    def __init__(self, target: Any) -> None:
        self.target = target
        for name, arguments in (
            ("reset_units", {"param": 0, "dim": 0, "index": 0, "groups": 1}),
            ("check_units", {"groups": 0}),
            ("move_bias", {"bias": 0, "change": 0}),
        ):
            _check_signature(target, name, arguments)

    @property
    def moves_bias(self) -> bool:
        """True if the object has the method."""
        return hasattr(self.target, "move_bias")

    def check(self, groups: Sequence[UnitGroup]) -> None:
        """Ask the object; without a method that checks, compare its parameters.

        Raises:
            ValueError: it has ``parameters``, and none of them belongs to the groups.
        """
        held = _parameters_of(self.target)
        if held:
            own = {id(parameter) for group in groups for _, parameter, _ in group.slices()}
            if own.isdisjoint(map(id, held)):
                raise ValueError(
                    f"{type(self.target).__name__} cannot follow: none of its {len(held)} parameters is one of the "
                    "engine's units (a copied network has parameters of its own)"
                )
        if hasattr(self.target, "check_units"):
            self.target.check_units(tuple(groups))

    def move_bias(self, slot: Slot, change: Tensor) -> None:
        """Pass the change on."""
        if self.moves_bias:
            self.target.move_bias(slot.bias, change)

    def reset(self, group: UnitGroup, units: Tensor) -> None:
        """Call ``reset_units`` for each parameter that is not frozen."""
        for _, parameter, slot in group.slices():
            if parameter.requires_grad:
                self.target.reset_units(parameter, slot.dim_of(parameter), slot.index(units), slot.groups)


def _check_signature(target: Any, name: str, arguments: dict[str, Any]) -> None:
    method = getattr(target, name, None)
    if method is None:
        return
    try:
        inspect.signature(method).bind(*arguments.values())
    except TypeError as error:
        raise TypeError(
            f"{name} of {type(target).__name__} must take ({', '.join(arguments)}): {error} "
            "(gnt.replacement.Follower describes it)"
        ) from None
    except ValueError:  # a method without a signature
        return


def _parameters_of(target: Any) -> list[Tensor]:
    """The parameters that an object says it holds, as an attribute or a method; none if it has no such attribute."""
    held = getattr(target, "followed_parameters", getattr(target, "parameters", None))
    if callable(held):
        held = held()
    return [each for each in held if isinstance(each, Tensor)] if isinstance(held, Iterable) else []
