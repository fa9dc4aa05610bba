"""Objects whose public attributes are known, so that assigning a misspelled setting is an error.

    @known_attributes()
    class GnT: ...

Attributes that exist, on the object or on its class, those that a class declares by an annotation, and names that begin
with an underscore are assigned as ever. The methods of the object, those of subclasses included, and the modules of gnt
and torch may add attributes. Elsewhere a new public name raises an AttributeError. Copies and pickles, which restore
``__dict__``, are not concerned.

The check is added by a decorator and not by a method of a base class, since type checkers accept any attribute of a
class with ``__setattr__``.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any, Final, TypeVar

from gnt._utils.other_names import ARGUMENTS, advice

Kind = TypeVar("Kind", bound=type[Any])

_MAY_ADD: Final = ("gnt", "torch")
_SIMILAR: Final = 0.75
_VERY_SIMILAR: Final = 0.85  # where other names are allowed: "max_momentum", of torch's schedulers, is not meant here


def known_attributes(
    *, elsewhere: Mapping[str, str] | None = None, others_allowed: bool = False
) -> Callable[[Kind], Kind]:
    """Decorate a class so that assigning an unknown public attribute raises an AttributeError.

    Args:
        elsewhere: settings that belong to another object, with what to assign instead, such as ``"gnt.init"``.
        others_allowed: refuse only the names of ``elsewhere``, and those that are nearly the same as a setting.
    """
    places = dict(elsewhere or {})

    def decorate(kind: Kind) -> Kind:
        base: Any = kind.__setattr__
        assign: Callable[[Any, str, Any], None] = getattr(base, "unchecked", base)

        def set_attribute(self: Any, name: str, value: Any) -> None:
            if name[0] != "_" and name not in self.__dict__ and not hasattr(type(self), name):
                _check(self, name, places, others_allowed, sys._getframe(1))
            try:
                assign(self, name, value)
            except AttributeError:
                if isinstance(own := getattr(type(self), name, None), property) and own.fset is None:
                    raise _fixed(self, name) from None
                raise

        set_attribute.unchecked = assign  # type: ignore[attr-defined]
        kind.__setattr__ = set_attribute  # type: ignore[assignment]
        return kind

    return decorate


def nearly_same(name: str, known: Iterable[str], cutoff: float = _VERY_SIMILAR) -> str | None:
    """The known name that is most similar; None if all differ by more."""
    near = difflib.get_close_matches(name, list(known), 1, cutoff=cutoff)
    return near[0] if near else None


def _check(owner: object, name: str, elsewhere: Mapping[str, str], others_allowed: bool, caller: FrameType) -> None:
    """Raise AttributeError for a public attribute that the caller must not add."""
    declared = any(name in inspect.get_annotations(each) for each in type(owner).__mro__)
    if declared or _may_add(owner, caller) or hasattr(owner, name):  # a submodule is not in __dict__
        return
    kind = type(owner).__name__
    if name in elsewhere:
        raise AttributeError(f"{name} is not an attribute of {kind}: assign {elsewhere[name]}")
    if not others_allowed and name in inspect.signature(type(owner)).parameters:
        raise _fixed(owner, name)
    own = _settable(type(owner))
    places = {**{each: each for each in own}, **elsewhere}
    near = nearly_same(name, places, _VERY_SIMILAR if others_allowed else _SIMILAR)
    if near and name not in ARGUMENTS:
        raise AttributeError(f"unknown setting {name} of {kind}; did you mean {places[near]}?")
    if not others_allowed:
        hint = advice([name]) or "; attributes of your own need a subclass, or a name that begins with an underscore"
        raise AttributeError(f"unknown setting {name}: {kind} has {', '.join(own)}{hint}")


def _fixed(owner: object, name: str) -> AttributeError:
    kind = type(owner).__name__
    return AttributeError(f"{name} of {kind} cannot be changed: build a new {kind}")


def _may_add(owner: object, caller: FrameType) -> bool:
    """True for a method of the object, and for code of gnt and torch."""
    if caller.f_locals.get("self") is owner:
        return True
    module = str(caller.f_globals.get("__name__"))
    return module.partition(".")[0] in _MAY_ADD


def _settable(kind: type[Any]) -> list[str]:
    """The public attributes of a class that can be assigned: descriptors and properties with a setter."""
    found = []
    for name in dir(kind):
        each = inspect.getattr_static(kind, name)
        can_set = each.fset is not None if isinstance(each, property) else hasattr(type(each), "__set__")
        if can_set and not name.startswith("_"):
            found.append(name)
    return found
