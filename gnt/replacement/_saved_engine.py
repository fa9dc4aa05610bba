"""SavedEngine: the part of `GnT` that saves and loads its state."""

from __future__ import annotations

from typing import Any

from gnt.replacement import _checkpoint
from gnt.replacement._step import EngineCore
from gnt.replacement.idle_warning import first_check


class SavedEngine(EngineCore):
    """An engine whose state can be saved; see `GnT`."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume exactly: the unit state of all groups, counters, the generator's state.

        Loads with ``torch.load(weights_only=True)``. Take it between steps: features that wait for an update are not
        included.
        """
        return _checkpoint.engine_state(
            self.groups,
            self.utility,
            self.updates,
            self.counted,
            self.generator,
            self.host_generator,
            self.slot_inits,
            self.measure_every,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a saved state. Settings are not saved: build the engine with the same ones. The distributions
        that ``init="auto"`` and ``bias_init="initial"`` chose are.

        On the type of device on which the state was saved the run continues bit for bit. On another one (saved on a
        GPU, loaded on the CPU, or the other way round) the generator gets a seed that the saved state determines,
        because generators of different devices draw different numbers.

        Raises:
            ValueError: saved by another version, with another measure of utility or ``measure_every``, or for other
                groups; or a damaged state: an entry that is missing, of another kind, not finite or out of range.
                Nothing is changed.
        """
        self.load_checked_state(self.checked_state(state_dict))

    def checked_state(self, state_dict: Any) -> _checkpoint.CheckedState:
        """Check a saved state for `load_checked_state`, as `load_state_dict` does."""
        self.follow_network()
        return _checkpoint.check_state(
            state_dict,
            self.groups,
            self.utility,
            self.generator,
            self.host_generator,
            self.slot_inits,
            self.measure_every,
            load_weights=self.init == "auto",
            load_biases=self.bias_init == "initial",
        )

    def initial_state_dict(self) -> dict[str, Any]:
        """The state of a new engine for these groups, for `load_state_dict`: all units at age 0, nothing counted.

        The initial distributions and the generators' states are the present ones.
        """
        new = [self.new_state(group, self.measure).state_dict() for group in self.groups]
        own = self.state_dict()
        groups = [{**saved, **state} for saved, state in zip(own["groups"], new, strict=True)]
        return {**own, "updates": 0, "counted": 0, "groups": groups}

    def load_checked_state(self, state: _checkpoint.CheckedState) -> None:
        """Load a checked state; this does not fail."""
        _checkpoint.load_units(state, self.groups)
        self.importance.evaluator.follow_host()
        _checkpoint.load_generators(state, self.generator, self.host_generator)
        self.updates, self.counted = state.updates, state.counted
        self.slot_inits = state.slot_inits
        self.next_idle_check = first_check(self.updates)
        self.selected, self.importance.absent = [], frozenset()
        self.discard()
        self.loaded, self.loads = True, self.loads + 1
        self._processes = None  # before the next step the processes compare what they have loaded

    @property
    def waiting(self) -> bool:
        """True if any forward was recorded since the last update."""
        return self.feature_buffer.waiting

    def discard(self) -> None:
        """Drop the recorded features of forwards that no update will follow.

        A loop that calls `step` itself calls this instead if a GradScaler has skipped the optimizer's step.
        """
        self.importance.discard()
