"""The result of `trace`: the unit groups found, and the units that were skipped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gnt.units._group import UnitGroup


@dataclass(frozen=True)
class Refused:
    """Units that `trace` found but that cannot be replaced soundly.

    Attributes:
        name: path of the module that produces them.
        num_units: number of units, or None if they cannot be counted.
        reason: why they cannot be replaced.
    """

    name: str
    num_units: int | None
    reason: str

    @property
    def display_name(self) -> str:
        """The name as printed; the model itself has an empty path."""
        return self.name or "(the model)"

    @property
    def size(self) -> str:
        """The number of units as printed; empty if they cannot be counted."""
        return f"{self.num_units} units" if self.num_units is not None else ""

    def __str__(self) -> str:
        return f"{self.display_name}: {self.size}{', ' if self.size else ''}{self.reason}"


class Groups(tuple[UnitGroup, ...]):
    """Tuple of the unit groups that `trace` found; printing it also shows what was skipped.

    Attributes:
        refused: units that were found and cannot be replaced soundly, with the reasons; also called `skipped`.
        notes: parts of the model that trace could not examine.
    """

    refused: tuple[Refused, ...] = ()
    notes: tuple[str, ...] = ()

    def __new__(cls, groups: Iterable[UnitGroup] = ()) -> Groups:
        """Create a tuple of unit groups with nothing skipped.

        Raises:
            TypeError: an item that is not a `UnitGroup`.
        """
        result = super().__new__(cls, groups)
        others = [type(item).__name__ for item in result if not isinstance(item, UnitGroup)]
        if others:
            raise TypeError(f"Groups must contain only gnt.UnitGroup, got {', '.join(dict.fromkeys(others))}")
        return result

    @classmethod
    def of(cls, groups: Iterable[UnitGroup], refused: Iterable[Refused], notes: Iterable[str] = ()) -> Groups:
        """Create a tuple of unit groups with what was skipped and noted."""
        result = cls(groups)
        result.refused, result.notes = tuple(refused), tuple(notes)
        return result

    @property
    def skipped(self) -> tuple[Refused, ...]:
        """The same as ``refused``."""
        return self.refused

    def __str__(self) -> str:
        lines = [str(group) for group in self]
        if self.refused:
            names = max(len(item.display_name) for item in self.refused)
            sizes = max(len(item.size) for item in self.refused)
            lines.append("skipped:")
            lines += [f"  {item.display_name:<{names}}  {item.size:>{sizes}}  {item.reason}" for item in self.refused]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def __repr__(self) -> str:
        units = sum(group.num_units for group in self)
        return f"Groups({len(self)} groups, {units} units, {len(self.refused)} skipped)"

    def __getitem__(self, key: Any) -> Any:
        """A single group, or for a slice the groups together with everything that was skipped."""
        chosen = super().__getitem__(key)
        return Groups.of(chosen, self.refused, self.notes) if isinstance(key, slice) else chosen

    def __reduce__(self) -> tuple[Any, ...]:
        return Groups.of, (tuple(self), self.refused, self.notes)
