"""The setting ``protect`` of engines: objects that tell which units must be kept, and what else it may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from gnt.replacement._top_units import TopUnits
from gnt.units import UnitGroup


class Protector(Protocol):
    """What `GnT` takes as ``protect``: an object that knows which units must be kept, such as a mask of earlier tasks.

    The object owns its protection and saves it: the engine's ``state_dict`` does not contain it.

    Required is `protected`. The engine calls further methods if the object has them:

    ``available(group)``
        which units of a group may be replaced at present: bool, (num_units,), on the device of the group's weights. The
        others are passed over: they are eligible and count as such, but are not selected, and what is due and finds no
        available unit is dropped. It is called, and the device read, only in steps in which units of the group are due.
        None: all, which also holds for objects without this method. Of several objects all must agree.
    ``movable_bias(bias)``
        which entries of a consumer's bias the mean contribution of replaced units may move into: bool, (n,), shaped
        like ``bias`` and on its device; True: it may. Other entries keep their bits. None: all may, which also holds
        for objects without this method. Of several objects all must agree. It is called when the engine gets the
        object and whenever units are replaced with ``bias_transfer=True``, for the biases of these units' consumers.
        The result is not read on the host. `Follower.move_bias` is then told the change that was made.

    >>> import torch, gnt
    >>> class KeepFirst:
    ...     def __init__(self, count):
    ...         self.count, self.masks = count, {}
    ...     def protected(self, group):
    ...         if group.name not in self.masks:  # the same tensor in each step
    ...             self.masks[group.name] = torch.arange(group.num_units) < self.count
    ...         return self.masks[group.name]
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> engine = gnt.GnT(net, replacement_rate=1.0, maturity_threshold=0, protect=KeepFirst(12))
    >>> _ = net(torch.randn(8, 4))
    >>> sorted(engine.step()[0].tolist())
    [12, 13, 14, 15]
    """

    def protected(self, group: UnitGroup) -> Tensor | None:
        """How much each unit of a group is protected.

        It is called for each group when the engine gets the object, and in each step before units are selected. While
        nothing has changed it should return the same tensor: the engine then compares the tensor's identity and its
        count of changes in place, and reads nothing. A new tensor, or one that was changed in place, is checked and
        read. Changes that torch does not count (through ``.data`` or NumPy) are not seen.

        Args:
            group: a group of the engine; ``group.name`` and the layers in ``group.producers`` tell which.

        Returns:
            p in [0, 1] for each unit, bool or floating point, (num_units,), on the device of the group's weights. A
            unit with p = 1 is never replaced. Others are ranked by u^ / (1 - p), with u^ the corrected utility. None,
            for a group that the object does not know: no unit is protected.
        """


Protect = Protector | TopUnits | str | Sequence[Protector | TopUnits | str] | None


def checked_protect(protect: Any) -> Any:
    """Return ``protect`` with a list as a tuple, and strings as the objects that they are short for.

    Raises:
        TypeError: not an object with a method ``protected``, a TopUnits, a string "top:...", a list or tuple of such,
            or None; or the ``movable_bias`` or ``available`` of an object is not
            a method.
        ValueError: a string "top:..." without a share in (0, 1], or several TopUnits.
    """
    listed = isinstance(protect, (list, tuple))
    given = [] if protect is None else list(protect) if listed else [protect]
    objects: list[Any] = [(TopUnits.parse(each) or each) if isinstance(each, str) else each for each in given]
    for each in objects:
        if isinstance(each, TopUnits):
            continue
        if isinstance(each, type) or not callable(getattr(each, "protected", None)):
            what = f"the class {each.__name__}" if isinstance(each, type) else repr(each)
            raise TypeError(
                "protect must be an object with a method protected(group), a gnt.protection.TopUnits or a string such "
                "as 'top:0.2' for one, a list or tuple of such, or None, "
                f"got {what}{' in it' if listed else ''}"
            )
        for name, argument in (("movable_bias", "bias"), ("available", "group")):
            if not callable(getattr(each, name, _all)):
                raise TypeError(
                    f"{name} of {type(each).__name__}, an object in protect, must be a method {name}({argument}), "
                    f"got {getattr(each, name)!r}"
                )
    if sum(isinstance(each, TopUnits) for each in objects) > 1:
        raise ValueError(f"protect must have one TopUnits at most, got {objects!r}")
    return tuple(objects) if listed else objects[0] if objects else None


def protectors(protect: Any) -> tuple[Any, ...]:
    """The objects in a checked ``protect``."""
    if protect is None:
        return ()
    return tuple(protect) if isinstance(protect, (list, tuple)) else (protect,)


def _all(argument: Any) -> None:
    """A further method of an object that has none."""
