"""`EveryNthStep`: the base of methods that change all parameters at every n-th step."""

from __future__ import annotations


class EveryNthStep:
    """Base of `ShrinkAndPerturb` and `FIRE`.

    Attributes:
        every: `step` acts at every ``every``-th call; with 0 it never acts.
        steps: number of calls of `step`.
    """

    every: int
    steps: int

    def apply(self) -> None:
        """Change the parameters now."""
        raise NotImplementedError

    def step(self) -> bool:
        """Count one step and `apply` at every ``every``-th call. Call it after each optimizer step.

        Returns:
            Whether the parameters were changed.
        """
        self.steps += 1
        if self.every == 0 or self.steps % self.every:
            return False
        self.apply()
        return True

    def after_step(self) -> None:
        """`step`, as the hook of a learner's method."""
        self.step()
