"""What trace found and does not give: named, counted, with the reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refused:
    """Units that trace found and that cannot be replaced soundly.

    Attributes:
        name: path of the module that produces them.
        num_units: how many they are, or None where they cannot be counted.
        reason: why.
    """

    name: str
    num_units: int | None
    reason: str

    @property
    def path(self) -> str:
        """The name as it is shown: the model itself has the empty one."""
        return self.name or "(the model)"

    def __str__(self) -> str:
        units = f"{self.num_units} units, " if self.num_units is not None else ""
        return f"{self.path}: {units}{self.reason}"
