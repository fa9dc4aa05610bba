"""ReportedEngine: the part of `GnT` that tells what it has done and will do."""

from __future__ import annotations

from typing import Any

from gnt._utils.validation import check_positive
from gnt.replacement._figures import figures, find_group
from gnt.replacement._saved_engine import SavedEngine
from gnt.replacement.dry_run import DryRun, plan_replacements
from gnt.replacement.report import Report
from gnt.units import Refused, UnitGroup, frozen_layers


class ReportedEngine(SavedEngine):
    """An engine with reports; see `GnT`."""

    refused: tuple[Any, ...]
    notes: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """All settings but ``generator`` and ``process_group`` as plain values, to be logged or saved.

        >>> import torch, gnt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        >>> gnt.GnT(net, replacement_rate=0.01).settings["replacement_rate"]
        0.01
        """
        return self.plain()

    def figures(self) -> dict[str, float]:
        """Return figures of each group by "<group>/<figure>", to be logged; reads the device once.

        Means over the units: ``utility`` (corrected), ``age``. Counts: ``dead``, ``eligible``, ``protected``,
        ``replaced`` so far; as in `report`.

        >>> import torch, gnt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        >>> gnt.GnT(net).figures()["0/age"]
        0.0
        """
        return figures(self.groups)

    def group(self, name: str) -> UnitGroup:
        """Return the group of this name, that of its producer.

        Raises:
            KeyError: there is none.
        """
        return find_group(self.groups, name)

    def left_out(self) -> tuple[Any, ...]:
        """What `trace` skipped, and the groups that are frozen now."""
        frozen = ((group, frozen_layers(group)) for group in self.groups)
        reasons = [(group, f"frozen (requires_grad=False): {', '.join(layers)}") for group, layers in frozen if layers]
        return (*self.refused, *(Refused(group.name, group.num_units, reason) for group, reason in reasons))

    @property
    def skipped(self) -> tuple[Any, ...]:
        """The same as ``refused``."""
        return self.refused

    def report(self, *, skipped: bool = False) -> Report:
        """Per group: units, protected, eligible, replaced so far, when the next is due, dead units, the initial
        distributions of new units, what `trace` skipped, and whether kernels update the units.

        Prints as a table, with the pace at which units are renewed in the long run (`gnt.suggest`). Reads the device.

        Args:
            skipped: whether to print each skipped layer with the reason. Without it, more than ten are only counted.
        """
        return Report.from_groups(
            self.groups,
            self.updates,
            self._rate_of_whole_units,
            self.slot_inits,
            self.left_out(),
            self.notes,
            at_most_one=self.accumulate == "one",
            implementation=self.importance.implementation,
            list_skipped=skipped,
        )

    def dry_run(self, most: int = 5) -> DryRun:
        """Which units would be replaced next, when, and what would change with each. Prints as text; changes nothing.

        Args:
            most: maximum number of units listed per group.

        Raises:
            ValueError: ``most`` is not a positive integer.

        >>> import torch, gnt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        >>> print(gnt.GnT(net, replacement_rate=0.01).dry_run())
        dry run after 0 updates: nothing is changed
        0
          next due    in 107 updates
          first to go none is eligible
          each takes  4 of 0.weight, 1 of 0.bias, 1 of 2.weight, 1 of 2.bias
        """
        check_positive(most=most)
        movable = self.protection.movable_biases(self.groups) if self.bias_transfer else None
        return plan_replacements(
            self.groups, self.updates, self._rate_of_whole_units, most, movable, self.protection.available
        )

    @property
    def _rate_of_whole_units(self) -> float:
        """The replacement rate; 0 with soft replacement, which replaces no unit as a whole."""
        return self.replacement_rate if self.soft is None else 0.0
