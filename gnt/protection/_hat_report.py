"""What a `HAT` reports: a table with a row for each group, and a picture of its masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gnt._utils.tables import align_columns
from gnt.protection._unit_layout import UnitLayout

_MOST_NUMBERS = 12  # tasks up to which values are written into the fields
_DARK = 0.6  # fields with larger values have light text


@dataclass(frozen=True)
class MaskedGroup:
    """The figures of one group.

    Attributes:
        name: the group's name.
        units: number of units.
        used_by: how many units 0, 1, 2, ... tasks use.
        on: number of units whose gates are on in the open task, e > 0; None: no task is open.
        rate: mean rate of the producers' weights in this step; None: no task is open.
    """

    name: str
    units: int
    used_by: tuple[int, ...]
    on: int | None
    rate: float | None

    @property
    def free(self) -> int:
        """Number of units that no task uses."""
        return self.used_by[0]


@dataclass(frozen=True)
class MaskReport:
    """The figures of all groups after some tasks; prints as a table.

    Attributes:
        tasks: ids of the tasks that have ended.
        groups: the figures of each group.
    """

    tasks: tuple[Any, ...]
    groups: tuple[MaskedGroup, ...]

    def __str__(self) -> str:
        most = max(len(each.used_by) for each in self.groups)
        rows = [["group", "units", "free", *(f"by {n}" for n in range(1, most)), "on now", "rate"]]
        for each in self.groups:
            counts = [str(count) if count else "-" for count in each.used_by[1:]]
            counts += ["-"] * (most - len(each.used_by))
            on, rate = ("-" if value is None else f"{value:.4g}" for value in (each.on, each.rate))
            rows.append([each.name, str(each.units), str(each.free), *counts, on, rate])
        lines = align_columns(rows)
        return "\n".join([f"after {len(self.tasks)} tasks: units free, and used by 1, 2, ... tasks", *lines])


def mask_report(
    layout: UnitLayout, tasks: Sequence[Any], counts: Tensor, on: Tensor | None, rates: dict[str, float] | None
) -> MaskReport:
    """Create the report; reads the device.

    Args:
        layout: the units.
        tasks: ids of the tasks that have ended.
        counts: number of tasks that use each unit.
        on: which gates are on in the open task, bool (units,); None: no task is open.
        rates: mean rate of each group; None: no task is open.
    """
    counts_by_group = layout.by_group(counts.cpu().long())
    on_by_group = None if on is None else layout.by_group(on.cpu())
    return MaskReport(
        tuple(tasks),
        tuple(
            MaskedGroup(
                name,
                len(part),
                tuple(torch.bincount(part).tolist()),
                None if on_by_group is None else int(on_by_group[name].sum()),
                None if rates is None else rates[name],
            )
            for name, part in counts_by_group.items()
        ),
    )


def draw_masks(layout: UnitLayout, tasks: Sequence[Any], masks: Tensor, axes: Any) -> Any:
    """Draw overlap and use of the masks of tasks into two axes, or into those of a new figure.

    Args:
        layout: the units.
        tasks: ids of the tasks.
        masks: their masks, bool (tasks, units).
        axes: two axes, or None.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    if axes is None:
        size = 1.6 + 0.5 * min(max(len(tasks), 4), 16)
        _, axes = plt.subplots(1, 2, figsize=(2 * size + 2, size), layout="constrained")
    names = [str(task) for task in tasks]
    values = masks.cpu().double()
    overlap = values @ values.T / values.sum(1, keepdim=True).clamp(min=1)
    left, right = axes
    image = left.imshow(overlap.numpy(), cmap="Blues", vmin=0, vmax=1)
    left.set_xticks(range(len(names)), names, rotation=45 if max(map(len, names)) > 4 else 0)
    left.set_yticks(range(len(names)), names)
    left.set_xlabel("are also used by task")
    left.set_ylabel("of the units of task")
    left.set_title("Overlap of masks")
    if len(names) <= _MOST_NUMBERS:
        for i, row in enumerate(overlap.tolist()):
            for j, value in enumerate(row):
                color = "white" if value > _DARK else "black"
                left.text(j, i, f"{100 * value:.0f}%", ha="center", va="center", color=color, fontsize=8)
    left.figure.colorbar(image, ax=left, format=PercentFormatter(1))
    for number, (name, part) in enumerate(layout.by_group(values).items()):
        color = f"C{number}"
        right.plot(range(len(names)), part.mean(1).numpy(), "o-", color=color, label=name)
        union = part.cummax(0).values.mean(1)
        right.plot(range(len(names)), union.numpy(), ":", color=color)
    right.plot([], [], ":", color="gray", label="all tasks so far")
    right.set_xticks(range(len(names)), names, rotation=45 if max(map(len, names)) > 4 else 0)
    right.set_ylim(0, 1.02)
    right.yaxis.set_major_formatter(PercentFormatter(1))
    right.set_xlabel("task")
    right.set_ylabel("share of the group's units")
    right.set_title("Units used by each task")
    right.legend(title="group", frameon=False, fontsize=9)
    return axes
