"""`WithStrength`: the factor of a penalty, which may be changed at any time."""

from __future__ import annotations

from gnt._utils.known_attributes import known_attributes
from gnt._utils.validation import finite_number


@known_attributes()
class WithStrength:
    """Base of the penalties; ``strength`` is checked whenever it is set."""

    _strength: float

    @property
    def strength(self) -> float:
        """Factor of the penalty; may be changed at any time."""
        return self._strength

    @strength.setter
    def strength(self, strength: float) -> None:
        self._strength = finite_number("strength", strength)
