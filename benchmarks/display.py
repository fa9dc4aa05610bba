"""What an experiment's table and picture show: a declaration, read by `benchmarks.comparison_table` and `benchmarks.comparison_picture`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A metric of the rows.

    Attributes:
        name: its key; of keys "name/layer" the mean is shown.
        title: what it is, over its panel.
        percent: whether it is a share, shown as such.
    """

    name: str
    title: str
    percent: bool = False

    def text(self, value: float) -> str:
        """A value as it is shown."""
        if self.percent:
            return f"{value:.1%}"
        if abs(value) >= 1e6:  # the weights of a network that is about to diverge
            return f"{value:.1e}"
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}
"""How the choices of a setting ``optimizer`` are written."""

DEAD = Metric("dead_units", "Dead hidden units", percent=True)
DEAD_AT_START = Metric("dead_units", "Hidden units dead when the task starts", percent=True)
DORMANT = Metric("dormant_units", "Dormant hidden units", percent=True)
RANK = Metric("nature_rank", "Rank of the features (Nature's)")
WEIGHTS = Metric("weight_magnitude", "Mean size of a weight")


@dataclass(frozen=True)
class Display:
    """What is shown of an experiment.

    Attributes:
        x: the key of a row that counts on ("task", "step").
        main: the metric it is about.
        higher_is_better: which way it shall go.
        about: settings -> one sentence that explains the picture.
        others: further metrics, a panel each; those that the rows do not have are left out.
        chance: what guessing reaches, where that means something.
        first, last: shares of the rows whose means are "first" and "last" in tables.
        smooth: rows over which the bold line of the main panel is averaged, where single rows are noisy.
    """

    main: Metric
    about: Callable[[Any], str]
    x: str = "task"
    higher_is_better: bool = True
    others: tuple[Metric, ...] = (DEAD, RANK, WEIGHTS)
    chance: float | None = None
    first: float = 0.1
    last: float = 0.2
    smooth: int = 1

    def rows_text(self, rows: list[dict[str, float]]) -> str:
        """Rows in a line of a log; the mean of several seeds."""
        last = rows[-1][self.x]
        values = [row[self.main.name] for row in rows if row[self.x] == last]
        return f"{self.x} {last:,.0f}: {self.main.name.replace('_', ' ')} {sum(values) / len(values):.3f}"
